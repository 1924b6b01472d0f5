"""A model and an index with Chinese names, fields and texts, through every way they are asked."""

import json
from pathlib import Path
from urllib.parse import quote

import httpx
import pytest

import millis
from fitting import run_millis
from making import make_fake_bundle
from millis.serving.settings import ServeSettings
from millis.serving.supervisor import Supervisor

pytestmark = pytest.mark.slow

ROWS = [
    {"编号": "x", "id": "退款一", "text": "退款需要五天。", "主题": "退款"},
    {"id": "订单一", "text": "订单周一发出。", "主题": "订单"},
]


def test_names_in_chinese_are_names_like_any_other(tmp_path: Path) -> None:
    bundle = make_fake_bundle(tmp_path, name="向量", task="embedding")
    labels = make_fake_bundle(tmp_path, name="客服意图", task="classify")
    rows = tmp_path / "常见问题.jsonl"
    rows.write_text("\n".join(json.dumps(row, ensure_ascii=False) for row in ROWS), encoding="utf-8")
    built = run_millis("index", "build", rows, "--model", bundle.path, "-o", tmp_path / "常见问题.index")
    assert built.returncode == 0, built.stderr
    assert "常见问题.index: 2 added" in built.stdout
    settings = ServeSettings(
        bundles=(str(bundle.path), str(labels.path)), indexes=(str(tmp_path / "常见问题.index"),), port=0, workers=1,
        audit=str(tmp_path / "审计"),
    )  # fmt: skip
    with Supervisor(settings) as server, millis.Client(server.url) as client:
        found = client.search("退款", index="常见问题", filter={"主题": "退款"})
        assert [one["id"] for one in found.results] == ["退款一"]
        wrong = httpx.post(f"{server.url}/v1/search", json={"query": "退款", "filter": {"颜色": "红"}})
        assert "the fields are 主题, 编号" in wrong.json()["detail"]
        assert "红" not in wrong.text, "a client's words are not repeated"
        assert client.classify("退款要多久？", model="客服意图").model == "客服意图"
        template = {"input": "退款要多久？", "output": "标签：{label}（{score}）"}
        assert httpx.post(f"{server.url}/v1/classify", json=template).json()["results"][0]["text"].startswith("标签：")
        tensor = {"name": "text", "datatype": "BYTES", "shape": [1], "data": ["退款"]}
        path = f"/v2/models/{quote('客服意图')}/infer"
        inferred = httpx.post(server.url + path, json={"inputs": [tensor]})
        assert (inferred.status_code, inferred.json()["model_name"]) == (200, "客服意图")
        unknown = httpx.post(f"{server.url}/v1/classify", json={"input": "退款", "model": "没有"})
        assert "choose one of 客服意图" in unknown.json()["detail"]
        assert 'model="客服意图"' in httpx.get(f"{server.url}/metrics").text
        asked = run_millis("ask", server.url, "退款", "--index", "常见问题")
        assert asked.returncode == 0, asked.stderr
        assert asked.stdout.splitlines()[0].split("  ")[1:] == ["退款一", "退款需要五天。"]
