"""Settings are read once, from four sources, and a mistake is one line that says how to repair it."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import TypeVar

import pytest

from notification.settings import NotificationSettings
from order.settings import OrderSettings
from payment.settings import PaymentSettings
from quadrille.observability.progress import Patience
from quadrille.settings import PUBLISHED, Bind, Settings, SettingsError, parse, parse_duration, read, settings_of
from quadrille_cli.services import PROGRAMS, SERVICES, all_settings, known_to

NEEDED = {
    "QUADRILLE_DATABASE_URL": "postgresql://app:hunter2@127.0.0.1:5501/order",
    "QUADRILLE_KAFKA_BOOTSTRAP": "127.0.0.1:9092",
    "QUADRILLE_REGISTRY_URL": "http://127.0.0.1:8081/apis/ccompat/v7",
}


S = TypeVar("S", bound=Settings)


def of(wanted: type[S], **more: str) -> S:
    return parse(wanted, (), NEEDED | {f"QUADRILLE_{k}": v for k, v in more.items()}, Path("absent.toml"))


def settings(*flags: str, file: Path = Path("absent.toml"), **more: str) -> Settings:
    return parse(Settings, flags, NEEDED | {f"QUADRILLE_{k}": v for k, v in more.items()}, file)


def test_the_defaults_are_the_published_ones() -> None:
    """Deadline 5m, cut-off 30m, stuck at 5, 10, 30m, intake 5 % of 20 in 5m, time-out 3s, batch 100, level info."""
    order, payment, found = of(OrderSettings), of(PaymentSettings), settings()

    assert (order.order_deadline, order.order_cancel_cutoff) == (timedelta(minutes=15), timedelta(minutes=30))
    assert (found.idempotency_ttl, found.inbox_window) == (timedelta(hours=48), timedelta(days=7))
    assert [order.stuck_warn, order.stuck_page, order.stuck_escalate] == [timedelta(minutes=m) for m in (5, 10, 30)]
    assert (order.intake_failure_rate, order.intake_failure_minimum) == (0.05, 20)
    assert (order.intake_failure_window, order.intake_rest) == (timedelta(minutes=5), timedelta(seconds=30))
    assert (order.intake_wal_kept, order.intake_disk_free) == (1_500_000_000, 256_000_000)
    assert (order.intake_database_size, order.intake_disk_directory) == (0, None)
    assert (payment.processor_timeout, payment.batch_max) == (timedelta(seconds=3), 100)
    assert (found.trace_ratio, found.log_level) == (1.0, "info")
    assert found.patience == Patience(stalled_after=30, renew_after=60)
    assert found.public_base == "http://127.0.0.1:8001"


def test_flag_wins_over_environment_over_file_over_default(tmp_path: Path) -> None:
    """Each source overrides the one below, and every value knows where it came from."""
    file = tmp_path / "quadrille.toml"
    file.write_text('order_deadline = "1m"\nbatch_max = 7\nlog_level = "debug"\n')
    environ = NEEDED | {"QUADRILLE_BATCH_MAX": "8", "QUADRILLE_LOG_LEVEL": "error"}

    found = parse(OrderSettings, ["--log-level=warning"], environ, file)

    assert (found.order_deadline, found.batch_max, found.log_level) == (timedelta(minutes=1), 8, "warning")
    assert [found.sources[n] for n in ("trace_ratio", "order_deadline", "batch_max", "log_level")] == [
        "default",
        str(file),
        "environment",
        "flag",
    ]


def test_an_unknown_name_is_refused_with_the_nearest() -> None:
    """A misspelt variable stops the start and names the right one."""
    with pytest.raises(SettingsError, match=r"unknown setting QUADRILLE_BATCH_MAXX; wanted QUADRILLE_BATCH_MAX;"):
        settings(BATCH_MAXX="3")


def test_an_unknown_name_in_the_file_or_a_flag_is_refused(tmp_path: Path) -> None:
    """The file and the flags are checked as the environment is."""
    file = tmp_path / "quadrille.toml"
    file.write_text("batchmax = 7\n")
    with pytest.raises(SettingsError, match=r"unknown setting batchmax in .*; wanted QUADRILLE_BATCH_MAX"):
        settings(file=file)
    with pytest.raises(SettingsError, match="unknown setting --api-bnd; wanted QUADRILLE_API_BIND"):
        settings("--api-bnd=127.0.0.1:1")
    with pytest.raises(SettingsError, match="found argument 8001; wanted --name=value"):
        settings("8001")


def test_a_service_knows_its_own_settings_and_the_chassis_none_of_them() -> None:
    """A setting of one service is refused by another as unknown, and by the chassis."""
    assert of(PaymentSettings, PROCESSOR_URL="http://a:1").processor_url == "http://a:1"
    for other in (Settings, OrderSettings, NotificationSettings):
        with pytest.raises(SettingsError, match="unknown setting QUADRILLE_PROCESSOR_URL; wanted "):
            of(other, PROCESSOR_URL="http://a:1")
    with pytest.raises(SettingsError, match="unknown setting QUADRILLE_SMPT_URL; wanted QUADRILLE_SMTP_URL"):
        of(NotificationSettings, SMPT_URL="smtp://a:1")
    assert [settings_of(name) for name in ("order", "inventory")] == [OrderSettings, Settings]


def test_the_command_line_knows_the_settings_of_all_services() -> None:
    """A setting for the stack is checked against every program's class, and given to those that know it."""
    known = set(all_settings().model_fields)

    assert known == {name for program in PROGRAMS for name in settings_of(program).model_fields}
    with pytest.raises(SettingsError, match="wanted QUADRILLE_ORDER_DEADLINE;"):
        of(all_settings(), ORDER_DEADLIN="5m")
    given = {"ORDER_DEADLINE": "5m", "BATCH_MAX": "7"}
    assert [known_to(service, given) for service in SERVICES[:2]] == [given, {"BATCH_MAX": "7"}]


def test_names_of_the_command_line_and_sandbox_are_let_be() -> None:
    """Variables of other programs of the family do not stop a service."""
    settings(CACHE="x", DATA="y", NO_AOT="1", PROFILE="test", SANDBOX_BIND="127.0.0.1:8010", SMTP_BIND="x:1")


@pytest.mark.parametrize(
    ("name", "value", "wanted"),
    [
        ("ORDER_DEADLINE", "soon", "a duration such as"),
        ("API_BIND", "8001", "host:port"),
        ("API_BIND", "127.0.0.1:99999", "host:port"),
        ("TRACE_RATIO", "2", "less than or equal to 1"),
        ("BATCH_MAX", "0", "greater than or equal to 1"),
        ("REGISTRY_URL", "localhost", "match pattern"),
        ("REGISTRY_URL", "http://localhost:99999", "port"),
        ("JAEGER_URL", "http://localhost:0", "port"),
        ("AUTH", "on", "'off'"),
        ("OTLP_ENDPOINTS", "127.0.0.1:4318", "with its scheme that is http://127.0.0.1:4318"),
        ("OTLP_ENDPOINTS", "grpc://127.0.0.1:4317", "over HTTP"),
        ("OTLP_ENDPOINTS", "http://127.0.0.1:4318,collector", "with its scheme that is http://collector"),
        ("OTLP_ENDPOINTS", "http://127.0.0.1:99999", "port"),
        ("OTLP_ENDPOINTS", "http://:4318", "http://host:port"),
        ("OTLP_ENDPOINTS", "http://collector:4318?key=1", "http://host:port"),
        ("OTLP_ENDPOINTS", "http://col lector:4318", "http://host:port"),
        ("LOG_LEVEL", "loud", "'debug', 'info'"),
    ],
)
def test_an_invalid_value_is_one_line(name: str, value: str, wanted: str) -> None:
    """Found, wanted and fix stand on one line, and the exit code is 2."""
    with pytest.raises(SettingsError) as refused:
        parse(OrderSettings, (), NEEDED | {f"QUADRILLE_{name}": value}, Path("absent.toml"))

    text = str(refused.value)
    assert text.startswith(f"found QUADRILLE_{name}='{value}' (environment); wanted ")
    assert wanted in text
    assert "\n" not in text
    assert refused.value.exit_code == 2


def test_what_is_required_is_named() -> None:
    """A missing required setting is refused by name."""
    with pytest.raises(SettingsError, match="found no QUADRILLE_DATABASE_URL"):
        parse(Settings, (), {}, Path("absent.toml"))


def test_secrets_never_show(tmp_path: Path) -> None:
    """A database's password may come from a file, and prints as ***, also when it is refused."""
    secret = tmp_path / "url"
    secret.write_text("postgresql://app:hunter3@db/order\n")
    environ = {k: v for k, v in NEEDED.items() if "DATABASE" not in k} | {"QUADRILLE_DATABASE_URL_FILE": str(secret)}

    found = parse(Settings, (), environ, Path("absent.toml"))

    assert found.database_url == "postgresql://app:hunter3@db/order"
    assert found.shown()["database_url"] == "***"
    assert "hunter" not in f"{found!r}{found.shown()}"
    with pytest.raises(SettingsError, match="No such file"):
        parse(Settings, (), environ | {"QUADRILLE_DATABASE_URL_FILE": "/absent"}, Path("absent.toml"))


def test_a_services_own_secrets_never_show(tmp_path: Path) -> None:
    """What a service's class declares as hidden may come from a file, too, and is hidden wherever it is shown."""
    secret = tmp_path / "url"
    secret.write_text("smtp://me:hunter3@mail:25\n")

    found = of(NotificationSettings, SMTP_URL_FILE=str(secret))

    assert found.smtp_url == "smtp://me:hunter3@mail:25"
    assert found.shown()["smtp_url"] == "***"
    assert "hunter" not in repr(found)


def test_without_authentication_only_loopback_is_served() -> None:
    """An API without keys refuses to start on an address others can reach."""
    with pytest.raises(SettingsError, match="a loopback address while authentication is off"):
        settings(API_BIND="0.0.0.0:8001")
    assert Bind("[::1]:1").loopback
    assert str(settings(API_BIND="[::1]:8001").api_bind) == "[::1]:8001"


def test_keys_are_served_anywhere_and_never_without_their_file() -> None:
    """With keys any address is served; a file without keys, or keys without one, is a door thought shut."""
    assert settings(API_BIND="0.0.0.0:8001", AUTH="keys", KEYS_FILE="keys.json").keys_file == Path("keys.json")
    wanted: tuple[dict[str, str], ...] = (
        {"AUTH": "keys"}, {"KEYS_FILE": "keys.json"}, {"AUTH": PUBLISHED, "KEYS_FILE": "keys.json"},
    )  # fmt: skip
    for wrong in wanted:
        with pytest.raises(SettingsError, match=r"KEYS_FILE.* with QUADRILLE_AUTH=.*quadrille keys new"):
            of(Settings, **wrong)


def test_a_refused_start_is_one_line_and_exit_code_2(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """A process with an invalid setting writes found, wanted and fix on one line and ends with code 2."""
    monkeypatch.setenv("QUADRILLE_TRACE_RATIOO", "1")
    with pytest.raises(SystemExit, match="2"):
        read(Settings)

    text = "refused to start: found unknown setting QUADRILLE_TRACE_RATIOO; wanted QUADRILLE_TRACE_RATIO; fix: rename "
    assert capfd.readouterr().err.startswith(text)


@pytest.mark.parametrize("seconds", ["0s", "6s"])
def test_a_call_must_end_before_its_lease(seconds: str) -> None:
    """A time-out with which an intent's tries would outlast its lease, or none at all, stops the start."""
    with pytest.raises(SettingsError, match=r"QUADRILLE_PROCESSOR_TIMEOUT=[06]m?s "):
        of(PaymentSettings, PROCESSOR_TIMEOUT=seconds)


def test_a_client_is_not_made_anew_before_the_stall() -> None:
    """STALL_RENEW_AFTER is refused below STALL_AFTER, in one line that says the bound."""
    assert settings(STALL_AFTER="20s", STALL_RENEW_AFTER="20s").patience == Patience(20, 20)
    with pytest.raises(
        SettingsError, match=r"STALL_RENEW_AFTER='29s' .*at least QUADRILLE_STALL_AFTER, which is 30s; fix"
    ):
        settings(STALL_RENEW_AFTER="29s")
    with pytest.raises(SettingsError, match=r"STALL_AFTER=0ms .*greater than or equal to 1 second"):
        settings(STALL_AFTER="0s")


def test_durations_read_as_they_show() -> None:
    """A duration's text is what was written."""
    for text in ("250ms", "3s", "5m", "48h", "7d"):
        assert of(OrderSettings, ORDER_DEADLINE=text).shown()["order_deadline"] in (text, "2d")
    assert parse_duration("1.5s") == timedelta(seconds=1.5)
    for endless in ("999999999999d", "9" * 400 + "s"):
        with pytest.raises(ValueError, match="a duration such as"):
            parse_duration(endless)


def test_lists_are_split() -> None:
    """OTLP endpoints come comma separated."""
    assert settings(OTLP_ENDPOINTS="http://a:4318/, http://b:4318").otlp_endpoints == ("http://a:4318", "http://b:4318")


def test_a_password_in_an_address_is_not_shown() -> None:
    """An endpoint takes none; the refusal does not repeat it."""
    with pytest.raises(SettingsError, match="http://host:port") as refused:
        settings(OTLP_ENDPOINTS="http://me:hunter2@collector:4318")
    assert "hunter2" not in str(refused.value)


def test_a_registrys_password_is_used_and_not_shown() -> None:
    """The registry's address may carry user and password: they are there for the client, and print as ***."""
    found = settings(REGISTRY_URL="https://me:hunter2@registry:8081/base")
    assert found.registry_url == "https://me:hunter2@registry:8081/base"
    assert found.shown()["registry_url"] == "https://***@registry:8081/base"


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        ("http://a:4318/v1/traces", "http://a:4318"),
        ("http://a:4318/v1/traces/", "http://a:4318"),
        ("http://a:4318/v1/traces/v1/traces", "http://a:4318"),
        ("https://a/otlp/v1/traces", "https://a/otlp"),
        ("http://[::1]:4318", "http://[::1]:4318"),
    ],
)
def test_a_path_too_much_is_left_out(given: str, wanted: str) -> None:
    """An endpoint is a base address, as OpenTelemetry has it: what names the traces' own path is the same place."""
    assert settings(OTLP_ENDPOINTS=given).otlp_endpoints == (wanted,)


@pytest.mark.parametrize(("text", "size"), [("0B", 0), ("256MB", 256_000_000), ("1.5GB", 1_500_000_000), ("3kB", 3000)])
def test_a_size_has_its_unit(text: str, size: int) -> None:
    """It is read in bytes, and shown in the largest unit that it is whole in."""
    found = of(OrderSettings, INTAKE_WAL_KEPT=text)

    assert found.intake_wal_kept == size
    assert found.shown()["intake_wal_kept"] == text.replace("1.5GB", "1500MB")


@pytest.mark.parametrize("text", ["256", "-1MB", "1 MB", "1mb", "many"])
def test_a_size_without_its_unit_is_refused(text: str) -> None:
    """What was given, what is wanted, by the setting's name."""
    with pytest.raises(SettingsError, match=r"QUADRILLE_INTAKE_WAL_KEPT.*a size such as"):
        of(OrderSettings, INTAKE_WAL_KEPT=text)


def test_a_directory_that_is_not_there_is_refused() -> None:
    """The disk guard is not to believe that it sees a disk when it does not."""
    with pytest.raises(SettingsError, match=r"QUADRILLE_INTAKE_DISK_DIRECTORY.*/nowhere"):
        of(OrderSettings, INTAKE_DISK_DIRECTORY="/nowhere")
