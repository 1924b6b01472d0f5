"""The sentence patterns of the demo corpus.

{person} {full} {first} {last}               PERSON: any form, first and last name, one of them
{org} {product} {place} {street} {order}     ORG, PRODUCT, PLACE, PLACE, ORDER
{issue} {ask} {thing} {day} ...              ordinary words (demo_names.WORDS)
[a|b|]                                       one of these, drawn each time

Border: text only, written for this project; demo.py fills it in. Each kind gives patterns to every part.
Words that are also names (bridge, mark, reading, nice, ...) stand in plain sentences on purpose.
"""

PATTERNS = {
    "ticket": """
[My|Our|The] {product} {issue} [since|after] the last update.
{product} {issue}. Order number {order}.
[Hi|Hello], I ordered a {product} {day} and it {issue}. [Please help.|What now?|]
Order {order}: the {thing} is missing from the {thing}.
I need to {ask} for {order}, it was bought in {place}.
We are {org} and {number} of our {product} units have the same fault: each {issue}.
Ticket raised by {person} ({org}): {product} {issue}.
Delivery of {order} to {place} is late [again|], I am {mood}.
Bought the {product} at your {place} store, and it {issue}.
Please {ask}. Name {person}, order {order}.
Can you {ask} on {order} before {time}?
Since {day} the {product} in our {place} branch {issue}.
Warranty claim {order} for {product}, purchased by {person} in {place}.
The {thing} for my {product} does not fit. I live in {place}. Where do I send it?
{org} delivered the wrong {thing} with {order}.
Refund of {money} for {order} never arrived at {org}.
Both {product} and {product} fail the same way: {issue}.
Is {product} compatible with {product}? The shop in {place} did not know.
I was charged {money} twice for {order}, once by you and once by {org}.
Urgent: {product} {issue} at {org} {place}.
Subject: {order} - {product} {issue}
Return label for {order} please, my address is {house} {street}, {place}.
My {role} {first} cannot log in to {product}, it says the {thing} is expired.
Who do I talk to about {product} at {org}?
the {product} {issue}, I want to {ask}
""",
    "chat": """
hi [there|], this is {first} from {org}, my {product} {issue}
hey {first}, any news on {order}?
thanks {first}! that fixed my {product}
{first} here again, {product} still {issue} :(
ok so i talked to {first} {day} and {first} said i should {ask}
can someone from {place} call me about {order}
no, not {product}, i have the {product}
its {order} [not|instead of] {order}, sorry
lol the {product} {issue} again
am i talking to {first} or to a bot
i'm in {place} until {day}, can {org} deliver there?
yes. {person}. {place}. order is {order}.
you told me {org} would pick it up at {time}, nobody came
still nothing from {org}, {first} promised it by {day}
do u ship {product} to {place}?? asking for my {role}
wait is {product} made by {org} or by {org}?
{first} u there? {order} says delivered but there is no {thing}
we moved from {place} to {place}, does my {product} still work there
my name is spelled {last}, like {last} with the letters in the right order
is {first} still on shift? they helped me with {product} {day}
brilliant, cheers {first} 👍 {product} works
😡 {org} again. {number} days and no {thing}
that's {last}, {full}, order {order}
i'd rather {ask} than wait for {person} to call back
so {product} or {product}, which one for a flat in {place}?
""",
    "note": """
Customer {person} called {day} about {order}, {mood}.
Spoke with {person} at {org}; wants to {ask}.
Caller: {person}, {place}. Reports that {product} {issue}.
{last} ({org}) asked for {first}, transferred to {team}.
Left a voicemail for {person} re {order}.
{person} confirmed that {product} {issue} at the {place} site.
Escalated to {person} in {team}, ref {order}.
Mr {last} will visit {org} in {place} on {day}.
Ms {last} is {mood} and will take it to {org} instead.
Dr {last} from {org} needs {number} more {product} by {day}.
Callback for {first} at {time}; topic: {product} and {order}.
No answer from {org}. Will try {person} again at {time}.
{person} and {person} share one account; both want to {ask}.
Verified address: {house} {street}, {place}. Customer {last}.
Engineer {last} replaced the {thing} of the {product} in {place}.
Complaint against {org} by {person}: the {role} was rude.
{org} contact is now {person}, formerly {person}.
Checked {order} with {team}: held at customs in {place}.
Agreed with {person}: {money} credit for the broken {product}.
Customer says {org} sold the {product} as new; it {issue}.
Flight delayed, {first} reaches {place} at {time}; meeting at {org} moved to {day}.
{product} demo for {org} went well, {full} to follow up {day}.
Mrs {last} moved to {place}; forward {order} there.
Dup of {order}? Same customer ({last}), same {product}.
""",
    "mail": """
Dear {person}, thank you for your order {order}.
Dear Ms {last}, we are sorry that your {product} {issue}.
Dear {org} team, our {role} {person} will be in {place} {day}.
Kind regards, {person}, {org}
Best, {first}
{full} | {org} | {place}
Please find attached the {thing} for {order}, as discussed with {person} {day}.
Following our call, {org} will replace the {product} free of charge.
We at {org} have decided to {ask}; {person} will be your contact.
Your {product} has left our depot in {place} and should arrive {day}.
I am writing on behalf of {org}, {place}, about {number} unpaid invoices.
Could you confirm that {order} goes to {place} and not to {place}?
As {first} wrote, {team} has received {order} but not the {thing}.
On {day} {person} wrote: we would like to {ask}.
We bought {org} last year, so please bill {org} from now on.
To whom it may concern: the {product} sold in {place} {issue}.
Regards from {place}, {first} and {first}
cc: {person}; {person}; {person}
Mr {last}, your technician, left without repairing the {product}.
Effective {day}, support for {product} moves from {place} to {place}.
PS: {first} says hello from the {place} office!
Sent from my {product}
With {org} as our reseller in {place}, we expected better.
Hello {first}, {first} from {team} gave me your name because my {product} {issue}.
""",
    "tricky": """
{org} from {place} called, not {person}.
Is {last} the customer or is {last} the company? It is {org}.
{first} in {place} has the {product}.
{org} is based in {place} but ships from {place}.
I asked {org} and they sent me to {first}.
We use {product} at {org}, and {product} at home.
{product} told me that {org} had cancelled {order}.
{person} left {org} for {org}.
flew to {place} with {first}, the {product} got lost on the way
Tell {first} that {place} is out of {product}.
{place} wants {number} more, {place} wants none.
{org}, {org} and {org} all reported it.
Between {place} and {place} the {product} lost its signal.
{first}'s {product} came from {org}'s {place} warehouse.
Do not confuse {product} with {product}, says {org}.
{last} signed for {order} in {place}.
{org} sued {org} over the name {product}.
The bridge of the {product} is broken, says {first}.
I will mark {order} as paid when {first} is back.
Nice work, {first}! {place} is nice too.
Hope this helps, {first}.
Will {first} bill {org} or will {org} bill us?
The {product} app crashed while I was reading about {place}.
Love from {place}, hate for {product}.
Half of {place} is without {product} and {org} says nothing.
""",
    "review": """
{product}: {number} stars. It {issue}, and {org} does not care.
Would not buy {product} again, {product} is better and cheaper.
Great service by {first} at the {place} shop!
{org} {product} for {money}? No thanks.
Shout out to {person} of {org} who drove to {place} on a {day}.
Got the {product} as a gift from my {role} {first}, love it.
After {number} weeks with the {product} I am {mood}.
{org} support in {place} is a joke, {number} calls and still {issue}.
Two of us at {org} tried {product}; {first} liked it, I did not.
The new {product} is just the old {product} in another {thing}.
Best {thing} in {place}, thanks to {org}.
{first} was patient, {first} was not, {product} got fixed.
""",
    "plain": """
I would like to {ask}.
It {issue} and I am {mood}.
The {thing} [is|was] missing.
Can I {ask} before {day}?
Nobody from {team} called me back.
I have been waiting for {number} weeks, I am {mood}.
[ok|okay] thanks, bye
Where is my {thing}?
Please send the {thing} to my {role}, not to me.
My {role} says the {thing} is {money}, is that right?
The mark on the {thing} will not go away.
We will cross that bridge when we come to it.
Reading the manual did not help, the signal is still weak.
Hope to hear from you {day}.
It would be nice to get a bill I can understand.
I anchor the {thing} to the wall and it still falls.
A new {thing} was promised for {day} at {time}.
What does the orange light on the {thing} mean?
How do I {ask}?
That was not what {team} told me {day}.
The slate tiles under the tower are wet, could that be the reason?
Summer is our busiest season so please {ask} quickly.
There is a split in the {thing} and a nest of wires behind it.
Your {role} was polite but could not {ask}.
Grace period ends {day}, I am {mood}.
""",
}
"""kind -> patterns, one a line."""
