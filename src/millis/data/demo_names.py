"""The names that the demo corpus is made of, and the ordinary words between them.

Border: lists only, written for this project; demo.py combines them. Names of people and companies are made
of parts: none is meant to be anyone. Many are deliberately ambiguous: Sydney and Florence are people and
places, Grace and Mark are people and words, Anchor and Ledger are products and words.
"""


def _names(text: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in text.split(","))


FIRST = _names(
    """
    Aaliyah, Abebe, Adaeze, Agnieszka, Ahmed, Aiko, Akosua, Alejandro, Amara, Amir, Ana, Anders, Anika,
    Anselm, Aoife, Arjun, Art, Asha, Astrid, Austin, Ayumi, Beatriz, Bilal, Bill, Björn, Bronwen,
    Camila, Carlos, Carolina, Chad, Chelsea, Chiara, Chidi, Chloe, Ciarán, Daisuke, Dallas, Dana, Daria,
    Deepika, Diego, Dmitri, Ebony, Eero, Elif, Emeka, Emiko, Esra, Ewa, Faith, Fatima, Felix, Feng,
    Florence, Françoise, Frank, Gabriela, Georgia, Giulia, Grace, Gunnar, Hamza, Hana, Haruto, Heather,
    Henrik, Hope, Hye-jin, Ibrahim, Ilse, Imani, India, Ines, Ingrid, Iris, Israel, Ivana, Jamal,
    Jelena, Jin, Joaquín, Jordan, Jorge, José, Joy, Jun, Kaito, Karim, Katarzyna, Keanu, Kenya, Kofi,
    Kwame, Laila, Lars, Leilani, Liam, Lina, Lucía, Ludmila, Łukasz, Madison, Magnus, Malik, Maribel,
    Mark, Mei, Mercy, Miguel, Milan, Mireille, Moana, Nadia, Naoko, Ngozi, Niamh, Nikhil, Nils, Noor,
    Olga, Oluwaseun, Omar, Paloma, Paris, Patience, Piotr, Preeti, Priya, Rafael, Rania, Ravi, Reza,
    Rose, Rosa, Ruth, Sakura, Samira, Sanjay, Savannah, Sean, Sienna, Sky, Sofia, Summer, Sunil,
    Svetlana, Sydney, Tadeusz, Tamar, Tariq, Teuila, Thabo, Thandiwe, Theo, Tomasz, Tuan, Uma,
    Valentina, Victor, Vikram, Virginia, Wanjiru, Wei, Will, Wojtek, Xiomara, Yara, Yasmin, Yusuf,
    Zainab, Zofia, Zoë
    """
)
LAST = _names(
    """
    Abara, Achterberg, Adeyemi, Afolabi, Aguilar, Ahlström, Akintola, Alvarado, Amundsen, Anand,
    Andersson, Arslan, Asante, Baker, Banerjee, Baptiste, Becker, Berg, Bergmann, Bianchi, Boateng,
    Bianco, Bishop, Brandt, Brennan, Brook, Bustamante, Cardoso, Carter, Castillo, Chakraborty, Chandra,
    Chen, Cho, Coleman, Conti, Cruz, Dahl, Delacroix, Demir, Deshpande, Diallo, Dubois, Duarte, Eriksen,
    Esposito, Fairbanks, Farouk, Ferrari, Field, Fischer, Fonseca, Fujimoto, Gallagher, Garza, Ghosh,
    Gómez, Granger, Grünwald, Gupta, Haddad, Hagen, Hale, Hamilton, Hansen, Hartmann, Hassan, Hayashi,
    Herrera, Hill, Hoang, Holm, Hosseini, Hunter, Ibarra, Ismail, Ito, Iyer, Jansen, Jensen, Kamau,
    Kapoor, Karlsson, Katz, Keller, Khalil, Kimura, Kovač, Kowalski, Krüger, Kumar, Lake, Lang, Lemaire,
    Lévesque, Lim, Lindqvist, Lombardi, Long, Lopes, Mahlangu, Maier, Marchetti, Mbeki, Medina, Mensah,
    Miyamoto, Moreau, Moretti, Mutua, Naidoo, Nakamura, Ndiaye, Nguyen, Nkosi, Novák, O'Brien, O'Neill,
    Obi, Okafor, Oduya, Olsen, Onwudiwe, Ortega, Osei, Özkan, Papadakis, Park, Patel, Pereira, Petrov,
    Pham, Price, Quispe, Rahman, Ramírez, Reyes, Rinaldi, Rivera, Rivers, Romano, Rossi, Saito, Salazar,
    Santos, Schäfer, Sharma, Shaw, Silva, Singh, Sørensen, Stone, Suzuki, Svensson, Takahashi, Tanaka,
    Teixeira, Torres, Tran, Tremblay, Ueda, Vargas, Vasquez, Virtanen, Vogel, Wagner, Wallace, Wanjala,
    Watanabe, Weber, West, Winters, Wójcik, Wood, Yamada, Yang, Yilmaz, Young, Zhang, Zimmermann, Zhou
    """
)
PLACES = _names(
    """
    Accra, Adelaide, Addis Ababa, Aberdeen, Albany, Alberta, Algiers, Amman, Antwerp, Asunción, Athens,
    Auckland, Austin, Baltimore, Bangalore, Bari, Basel, Bath, Bavaria, Belfast, Bergen, Bilbao, Bogotá,
    Bologna, Boston, Bratislava, Bremen, Brisbane, Bristol, Brno, Bruges, Bucharest, Busan, Cádiz,
    Calgary, Canberra, Cape Town, Cardiff, Casablanca, Cebu, Charlotte, Chelsea, Chennai, Chile,
    Colombo, Cologne, Cork, Córdoba, Cusco, Dakar, Dallas, Darwin, Denmark, Denver, Derby, Doha, Dover,
    Dublin, Durban, Edinburgh, Estonia, Fez, Florence, Fukuoka, Galway, Geneva, Genoa, Georgia, Ghana,
    Ghent, Glasgow, Gothenburg, Granada, Graz, Guadalajara, Haifa, Halifax, Hamilton, Hanoi, Harare,
    Helsinki, Houston, Incheon, Innsbruck, Izmir, Jaipur, Jakarta, Jordan, Kampala, Kansas City, Kaunas,
    Kigali, Kobe, Kraków, Kuala Lumpur, Kyoto, Lagos, Lahore, Lausanne, Leeds, Leipzig, Lima, Lincoln,
    Linz, Lisbon, Ljubljana, Lusaka, Luxembourg, Lyon, Madison, Malmö, Manchester, Manila, Maputo,
    Marseille, Mbabane, Medellín, Melbourne, Memphis, Milan, Mobile, Montreal, Mumbai, Munich, Nagoya,
    Nairobi, Nantes, Naples, New Delhi, Nice, Norway, Odense, Ontario, Oporto, Osaka, Oslo, Oxford,
    Palermo, Paris, Perth, Phoenix, Porto, Portland, Potsdam, Prague, Puebla, Pune, Quebec, Quito,
    Rabat, Reading, Recife, Reno, Riga, Rio de Janeiro, Rotterdam, Salzburg, San José, Santa Cruz,
    São Paulo, Sapporo, Savannah, Scotland, Seville, Singapore, Sligo, Sofia, Split, St. Gallen,
    Stockholm, Stuttgart, Suva, Sydney, Taipei, Tallinn, Tampere, Tbilisi, Toledo, Toulouse, Trieste,
    Tromsø, Tunis, Turin, Utrecht, Valencia, Valparaíso, Vermont, Victoria, Vienna, Vilnius, Virginia,
    Warsaw, Wellington, Windhoek, Wrocław, York, Yokohama, Zagreb, Zanzibar, Zürich
    """
)
STREETS = _names("Street, Road, Avenue, Lane, Square, Terrace, Quay, Boulevard, Gardens, Park")
STEMS = _names(
    """
    Aldercrest, Alpenglow, Amberline, Arcwell, Ashgrove, Bluepeak, Brightwater, Cedarfield, Clearmont,
    Cobaltine, Copperleaf, Crestline, Dawnbridge, Deepharbor, Driftwood, Eastgate, Emberly, Evenfall,
    Farsight, Fernhill, Foxglove, Glasswing, Goldenrod, Granite, Greenhollow, Halcyon, Harborlight,
    Hazelmere, Highfield, Hollowtree, Ironbark, Ivoryline, Juniper, Kestrel, Kingfisher, Lanternworks,
    Larkspur, Lumenfold, Maplewood, Marlstone, Meridian, Millbrook, Moonrise, Nightjar, Northwind,
    Oakhurst, Onyx, Palisade, Parallax, Pinecrest, Quartzite, Quickstep, Redshore, Ridgeback, Riverbend,
    Rookery, Saltmarsh, Sandpiper, Silverline, Skylark, Sparrow, Starling, Stonebridge, Summit,
    Sunfield, Tallgrass, Thistle, Tidewater, Timberline, Trellis, Umbra, Vantage, Verdant, Wavecrest,
    Westbrook, Whitecap, Wildrose, Willowbank, Windmere, Wrenfield, Yellowfin, Zephyr
    """
)
TRADES = _names(
    """
    Logistics, Labs, Foods, Bank, Insurance, Energy, Media, Dental, Freight, Textiles, Motors, Pharma,
    Software, Partners, Capital, Travel, Hospital, University, Water, Airlines, Retail, Press, Studios,
    Robotics, Farms, Shipping, Telecom, Systems
    """
)
LEGAL = _names("GmbH, Ltd, Inc., AG, S.A., LLC, Pty, Oy, AB, BV")
COINED_START = _names(
    """
    Aero, Arca, Brevi, Cali, Civo, Cloudi, Dexa, Echo, Fluxo, Gala, Hexa, Inno, Jola, Kivo, Lumo, Mira,
    Nexa, Novo, Omni, Pixo, Quanta, Rapi, Sola, Synca, Tala, Tempo, Ultra, Vela, Verto, Vista, Volta,
    Xeno, Yaro, Zeni
    """
)
COINED_END = _names(
    """
    bit, core, desk, dock, flow, grid, lane, link, mesh, nest, note, pad, pay, port, ra, scan, sense,
    sync, tag, tron, view, wave
    """
)
COMMON = _names(
    """
    Anchor, Arrow, Atlas, Beacon, Blanket, Bridge, Canvas, Cascade, Compass, Crate, Crown, Echo, Falcon,
    Feather, Forge, Harvest, Hive, Horizon, Journal, Keystone, Ladder, Lantern, Ledger, Mirror, Mosaic,
    Nest, Orbit, Pebble, Pilot, Pulse, Quill, Relay, Ripple, Saddle, Scout, Shelter, Signal, Slate,
    Sprout, Stack, Tandem, Thread, Tower, Trail, Vault, Whistle
    """
)
DEVICES = _names(
    """
    Router, Scanner, Tablet, Printer, Headset, Camera, Speaker, Watch, Thermostat, Charger, Terminal,
    Hub, Keyboard, Monitor, Drone, Kettle, Vacuum, Lamp, Lock, Sensor, Projector, Reader
    """
)
EDITIONS = _names("Pro, Mini, Max, Lite, Plus, Air, One, X, Go, Ultra, SE, Home, Enterprise, Studio")

WORDS = {
    "issue": """
        won't turn on|keeps crashing|stopped syncing|shows a blank screen|
        drains the battery overnight|is stuck on loading|makes a grinding noise|
        loses the connection every hour|refuses my password|prints double pages|is overheating|
        arrived with a cracked case|can't find the network|freezes during setup|
        sends every alert twice|is painfully slow|no longer charges|deleted half of my notes|
        beeps all night|fails the self test|rejects the licence key
    """,
    "ask": """
        get a refund|change the delivery date|cancel the order|speak to a human|
        reset the password|add another user|get a copy of the invoice|upgrade the plan|
        return it|extend the warranty|update the billing address|close the account|
        export the data|book a technician|swap it for another colour
    """,
    "mood": """
        very disappointed|quite happy overall|confused|furious|a bit worried|really grateful|
        still waiting|running out of patience|not impressed|relieved|fine with that
    """,
    "day": """
        Monday|Tuesday|Wednesday|Thursday|Friday|Saturday|Sunday|yesterday|today|tomorrow|
        last week|next month|this morning|in May|in August|in March|before summer|
        after Easter
    """,
    "time": "9 am|noon|14:30|half past three|5 pm|the end of the day|8.15|midnight|two hours",
    "money": "$49.90|120 euros|£18|three hundred dollars|€ 75|1,200 kr|about 40 quid|9.99",
    "thing": """
        box|parcel|invoice|manual|cable|adapter|receipt|label|spare part|remote|password|
        login|update|contract|voucher|battery|screen|subscription|mount|case
    """,
    "team": """
        billing|the warehouse|tech support|sales|the returns desk|second level|dispatch|
        the night shift|legal
    """,
    "role": """
        manager|driver|technician|colleague|assistant|accountant|supervisor|boss|wife|
        neighbour|son|agent
    """,
    "number": "2|3|4|6|12|15|20|48|100|a dozen|several",
    "house": "3|8|14|27|112|5b|1660",
}
"""Ordinary words for the slots of a pattern that are no names, split at |."""
