"""The dashboard and the alerting rules name what `/metrics` has, and each alert has its entry."""

import inspect
import itertools
import json
import re
import shlex
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path

import httpx
import promql_parser as promql
import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from cartsvc import errors, keys, link, metrics
from cartsvc.backlog import Backlog
from cartsvc.http import reason_of
from cartsvc.ledger import Ledger
from cartsvc.readings import ADDS
from tests.shop import LAMP, Shop
from tests.test_dead_letter import worker_of

DOCS = Path(__file__).parent.parent / "docs"
OPERATIONS = (DOCS / "operations.md").read_text()
BOARD = json.loads((DOCS / "grafana/cartsvc.json").read_text())
RULES = DOCS / "prometheus/alerts.yml"
ALERTS = [rule for group in yaml.safe_load(RULES.read_text())["groups"] for rule in group["rules"]]
PANELS = [panel for panel in BOARD["panels"] if panel["type"] != "row"]

OF_PROMETHEUS = {"job", "instance"}
"""Labels that it gives whatever it scrapes."""

Known = Mapping[str, set[str]]
"""Sample -> its labels."""


@pytest.fixture(scope="module")
def known_so_far() -> dict[str, set[str]]:
    return {}


@pytest.fixture
def known(request: pytest.FixtureRequest, known_so_far: dict[str, set[str]]) -> Known:
    """What a service tells that granted and refused an add, and whose worker did all it does."""
    if not known_so_far:
        known_so_far.update(request.getfixturevalue("told_by_a_service"))
    return known_so_far


@pytest.fixture
async def told_by_a_service(http: httpx.AsyncClient, shop: Shop, api_ledger: Ledger) -> Known:
    await shop.sell(LAMP, stock=1)
    await shop.redis.sadd(shop.bucket.watched, LAMP)
    for quantity in (1, 9):
        body = {"product_id": LAMP, "quantity": quantity, "session_id": "ann"}
        await http.post("/api/cart", json=body)
    await worker_of(shop, api_ledger).run_once()
    await Backlog(shop.runner).note(shop.bucket, {"released": 1, "repriced": 1}, {})
    found: dict[str, set[str]] = {"up": set(), **dict(_defined())}
    text = (await http.get("/metrics")).text
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            found.setdefault(sample.name, set()).update(sample.labels)
    return found


def _defined() -> Iterator[tuple[str, set[str]]]:
    """What a process may count: a sample is on the page only once there was one."""
    for metric in metrics.COUNTERS:
        yield f"{metric.name}_total", set(metric.labels)
    for metric in metrics.DURATIONS:
        yield f"{metric.name}_count", set(metric.labels)
        yield f"{metric.name}_sum", set(metric.labels)
        yield f"{metric.name}_bucket", {*metric.labels, "le"}


def section(title: str) -> str:
    _, _, rest = OPERATIONS.partition(f"\n## {title}\n")
    return re.split(r"^## ", rest, maxsplit=1, flags=re.MULTILINE)[0]


def parsed(text: str) -> promql.Expr:
    return promql.parse(text.replace("$__rate_interval", "1m"))


def name_of(selector: promql.VectorSelector) -> str:
    assert selector.name is not None
    return selector.name


def selectors(query: promql.Expr) -> list[promql.VectorSelector]:
    found = []

    def visit(one: promql.Expr) -> None:
        if isinstance(one, promql.VectorSelector):
            found.append(one)

    promql.walk(query, visit)
    return found


def told(query: promql.Expr, known: Known) -> set[str]:
    """The labels of what a query gives."""
    match query:
        case promql.VectorSelector():
            return known[name_of(query)] | OF_PROMETHEUS
        case promql.MatrixSelector():
            return told(query.vector_selector, known)
        case promql.AggregateExpr():
            return set(query.modifier.labels) if query.modifier else set()
        case promql.Call():
            return set().union(*(told(one, known) for one in query.args)) - {"le"}
        case promql.ParenExpr():
            return told(query.expr, known)
        case promql.BinaryExpr() if isinstance(query.lhs, promql.NumberLiteral):
            return told(query.rhs, known)
        case promql.BinaryExpr():
            return told(query.lhs, known) or told(query.rhs, known)
        case _:
            return set()


def check(text: str, known: Known) -> set[str]:
    """Every name and label of a query is known; the labels of what it gives."""
    query = parsed(text)
    assert selectors(query)
    for one in selectors(query):
        assert one.name in known, text
        for matcher in one.matchers.matchers:
            assert matcher.name in known[name_of(one)] | OF_PROMETHEUS, text
    has = set().union(*(known[name_of(one)] for one in selectors(query))) | OF_PROMETHEUS
    labels = told(query, known)
    assert labels <= has, text
    return labels


def queries() -> Iterator[tuple[str, str]]:
    """(where, query) of the dashboard and of the rules."""
    for panel in PANELS:
        for target in panel["targets"]:
            yield panel["title"], target["expr"]
    for rule in ALERTS:
        yield rule["alert"], rule["expr"]


# -- Names


def test_the_dashboard_asks_for_what_there_is(known: Known) -> None:
    for panel in PANELS:
        for target in panel["targets"]:
            labels = check(target["expr"], known)
            assert set(re.findall(r"\{\{(\w+)\}\}", target["legendFormat"])) <= labels, panel[
                "title"
            ]
    [tenants] = [one for one in BOARD["templating"]["list"] if one["name"] == "tenant"]
    found = re.fullmatch(r"label_values\((\w+), (\w+)\)", tenants["definition"])
    assert found
    assert found[2] in known[found[1]]
    assert tenants["query"]["query"] == tenants["definition"]


def test_the_rules_ask_for_what_there_is(known: Known) -> None:
    for rule in ALERTS:
        labels = check(rule["expr"], known)
        texts = " ".join(rule["annotations"].values())
        assert set(re.findall(r"\$labels\.(\w+)", texts)) <= labels, rule["alert"]


@pytest.mark.parametrize(
    "broken",
    [
        "cartsvc_dirty_cart",
        "rate(cartsvc_replays[5m])",
        'cartsvc_dirty_carts{tennant="default"}',
        "max by (tennant) (cartsvc_dirty_carts)",
        "sum by (status) (rate(cartsvc_refusals_total[5m]))",
    ],
)
def test_what_there_is_not_is_found(known: Known, broken: str) -> None:
    check("max by (tenant) (cartsvc_dirty_carts)", known)
    with pytest.raises(AssertionError):
        check(broken, known)


REASONS = {"internal_error"} | {
    reason_of(kind)
    for _, kind in inspect.getmembers(errors, inspect.isclass)
    if issubclass(kind, errors.CartError)
}
VALUES = {
    "reason": REASONS,
    "event": set(re.findall(r'LINKS\["(\w+)",\]', inspect.getsource(link))),
    "route": set(ADDS.values()),
    "method": {"POST"},
    "state": {"free", "held", "sold"},
    "job": {"cartsvc"},
}


def test_labels_are_asked_for_values_that_they_have() -> None:
    for where, text in queries():
        for one in selectors(parsed(text)):
            for matcher in one.matchers.matchers:
                if matcher.name in VALUES:
                    assert set(matcher.value.split("|")) <= VALUES[matcher.name], where


def test_every_metric_is_on_the_dashboard(known: Known) -> None:
    shown = {
        name_of(one)
        for panel in PANELS
        for t in panel["targets"]
        for one in selectors(parsed(t["expr"]))
    }
    families = {re.sub("_(count|sum|bucket|total)$", "", name) for name in known}
    assert families == {re.sub("_(count|sum|bucket|total)$", "", name) for name in shown}


def added_up(text: str) -> set[str]:
    """The samples that a query adds up as they are."""
    found: set[str] = set()
    around: list[str] = []

    def enter(one: promql.Expr) -> None:
        if isinstance(one, promql.AggregateExpr):
            around.append(str(one.op))
        elif isinstance(one, promql.VectorSelector) and around[-1:] == ["sum"]:
            found.add(name_of(one))

    def leave(one: promql.Expr) -> None:
        if isinstance(one, promql.AggregateExpr):
            around.pop()

    promql.walk(parsed(text), enter, leave)
    return found


def test_what_the_stores_say_is_not_added_up_over_services(known: Known) -> None:
    alike = {name for name, labels in known.items() if "tenant" in labels}
    alike |= {name for name in known if name.startswith(("cartsvc_redis_", "cartsvc_postgresql_"))}
    assert added_up("sum(max(rate(cartsvc_carts[1m]))) + sum(up)") == {"up"}
    for where, text in queries():
        assert not added_up(text) & alike, where


# -- The dashboard's form


def test_panels_have_ids_of_their_own_and_places_that_do_not_overlap() -> None:
    ids = [panel["id"] for panel in BOARD["panels"]]
    assert len(set(ids)) == len(ids)
    taken: set[tuple[int, int]] = set()
    for panel in BOARD["panels"]:
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= 24
        columns = range(place["x"], place["x"] + place["w"])
        cells = set(itertools.product(columns, range(place["y"], place["y"] + place["h"])))
        assert not taken & cells, panel["title"]
        taken |= cells


def test_every_panel_asks_the_datasource_that_is_chosen_and_says_what_it_shows() -> None:
    variables = {one["name"]: one for one in BOARD["templating"]["list"]}
    assert variables.keys() == {"datasource", "tenant"}
    assert (variables["datasource"]["type"], variables["datasource"]["query"]) == (
        "datasource",
        "prometheus",
    )
    chosen = {"type": "prometheus", "uid": "${datasource}"}
    assert variables["tenant"]["datasource"] == chosen
    for panel in PANELS:
        assert panel["datasource"] == chosen
        assert panel["description"].endswith(".")
        assert panel["fieldConfig"]["defaults"]["unit"]
        references = [target["refId"] for target in panel["targets"]]
        assert len(set(references)) == len(references) > 0
        assert all(target["datasource"] == chosen for target in panel["targets"])


def test_what_is_of_a_tenant_is_shown_of_the_one_that_is_chosen(known: Known) -> None:
    for panel in PANELS:
        for target in panel["targets"]:
            for one in selectors(parsed(target["expr"])):
                matched = {matcher.name: matcher.value for matcher in one.matchers.matchers}
                wanted = "$tenant" if "tenant" in known[name_of(one)] else None
                assert matched.get("tenant") == wanted, panel["title"]


# -- The rules' form, and their entries


def test_every_rule_says_what_to_do() -> None:
    for rule in ALERTS:
        assert re.fullmatch(r"\d+[smh]", rule["for"]), rule["alert"]
        assert rule["labels"]["severity"] in {"critical", "warning"}
        assert rule["annotations"].keys() == {"summary", "description", "runbook_url"}
        assert not rule["annotations"]["summary"].endswith(".")
        assert rule["annotations"]["description"].endswith(".")


def test_every_alert_has_its_entry_and_every_entry_its_alert() -> None:
    entries = re.findall(r"^### (\w+)$", section("When an alert fires"), re.MULTILINE)
    assert entries == [rule["alert"] for rule in ALERTS]
    headings = re.findall(r"^#+ (.+)$", OPERATIONS, re.MULTILINE)
    anchors = {re.sub(r"[^\w -]", "", heading).lower().replace(" ", "-") for heading in headings}
    for rule in ALERTS:
        url = rule["annotations"]["runbook_url"]
        assert url == f"docs/operations.md#{rule['alert'].lower()}"
        assert url.partition("#")[2] in anchors


PROMTOOL = shutil.which("promtool")


@pytest.mark.skipif(PROMTOOL is None, reason="promtool is not installed (Debian: prometheus)")
@pytest.mark.parametrize(
    "arguments", [("check", "rules", "alerts.yml"), ("test", "rules", "alerts_test.yml")]
)
def test_prometheus_itself_takes_the_rules(arguments: tuple[str, ...]) -> None:
    done = subprocess.run(
        [str(PROMTOOL), *arguments], cwd=RULES.parent, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_rule_is_tried() -> None:
    tried = (RULES.parent / "alerts_test.yml").read_text()
    for rule in ALERTS:
        assert f'alertname="{rule["alert"]}"}}\', value: 1' in tried, rule["alert"]


# -- The runbook


def commands() -> Iterator[list[str]]:
    """What the runbook asks of Redis, as it is before a pipe; without redis-cli's own options."""
    for line in re.findall(r"^\$ \$R ([A-Z].*)$", section("Watching by redis-cli"), re.MULTILINE):
        yield shlex.split(line.partition(" |")[0], comments=True)


async def test_redis_takes_every_command_of_the_runbook(open_shop: Shop) -> None:
    await open_shop.add()
    threshold = await open_shop.redis.config_get("latency-monitor-threshold")
    asked = list(commands())
    assert len(asked) > 20
    for command in asked:
        await open_shop.redis.execute_command(*command)
    await open_shop.redis.config_set(*threshold.popitem())


def test_the_runbook_names_keys_that_there_are() -> None:
    families = {row.pattern.partition(":")[0] for row in keys.TABLE}
    named = set(re.findall(r"'(\w+):\{default:0\}", section("Watching by redis-cli")))
    assert len(named) > 9
    assert named <= families
