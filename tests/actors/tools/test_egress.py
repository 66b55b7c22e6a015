"""What the egress guard lets through, and what not: addresses, names, redirects and limits."""

from __future__ import annotations

import datetime as dt
import gzip
import re
import ssl
from collections.abc import Sequence
from ipaddress import ip_address, ip_network
from pathlib import Path

import psutil
import pytest
import trio
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import given
from hypothesis import strategies as st
from pocketpaw.actors.tools import egress
from pocketpaw.actors.tools.addresses import Address, is_public, own_networks
from pocketpaw.actors.tools.egress import Body, Egress, parse, resolve
from pocketpaw.runtime.errors import Forbidden, InvalidInput, TimedOut, TooLarge, Unavailable

from ...fakes.site import fake_site, page, redirect

PUBLIC = "93.184.215.14"


class FakeResolver:
    """Answers each name with what it was given: the next answer each time, the last one for ever."""

    def __init__(self, **answers: list[list[str]]) -> None:
        self.answers = {name.replace("_", "."): answer for name, answer in answers.items()}
        self.asked: list[str] = []

    async def __call__(self, host: str) -> Sequence[Address]:
        self.asked.append(host)
        answers = self.answers[host]
        return [ip_address(text) for text in (answers.pop(0) if len(answers) > 1 else answers[0])]


def egress_to(*permitted: str, resolver: FakeResolver | None = None) -> Egress:
    return Egress(lambda: permitted, resolver or FakeResolver(site_test=[["127.0.0.1"]]))


# Addresses ------------------------------------------------------------------------------------------------------------

NOT_PUBLIC = re.findall(
    r"\S+",
    """
0.0.0.0 0.1.2.3 10.0.0.1 100.64.0.1 100.100.100.200 127.0.0.1 127.255.255.254 168.63.129.16 169.254.169.254
169.254.170.2 172.16.0.1 172.31.255.255 192.0.0.192 192.0.2.1 192.88.99.1 192.168.0.1 198.18.0.1 198.19.255.255
198.51.100.7 203.0.113.7 224.0.0.1 239.255.255.250 240.0.0.1 255.255.255.255
:: ::1 ::127.0.0.1 ::ffff:127.0.0.1 ::ffff:10.0.0.1 ::ffff:169.254.169.254 ::ffff:0:127.0.0.1 64:ff9b::127.0.0.1
64:ff9b::a9fe:a9fe 64:ff9b:1::10.0.0.1 100::1 2001::1 2001:0:4136:e378:8000:63bf:80ff:fffe 2001:2::1 2001:10::1
2001:20::1 2001:db8::1 2002:7f00:1::1 2002:a9fe:a9fe::1 2002:5db8:d70e::1 3fff::1 5f00::1 fc00::1 fd00:ec2::254
fdff::1 fe80::1 fec0::1 ff02::1 ff05::1
""",
)
ON_THE_INTERNET = re.findall(
    r"\S+",
    """
1.1.1.1 8.8.8.8 93.184.215.14 172.15.0.1 172.32.0.1 192.169.0.1 223.255.255.255
2606:4700::1111 2a00:1450:4001:82f::200e ::ffff:8.8.8.8 64:ff9b::8.8.8.8
""",
)


@pytest.mark.parametrize("text", NOT_PUBLIC)
async def test_an_address_that_is_not_public_is_refused_literally_and_behind_a_name(text: str) -> None:
    assert not is_public(ip_address(text))
    literal = f"http://[{text}]/" if ":" in text else f"http://{text}/"
    with pytest.raises(Forbidden, match=r"is no public address.*web_fetch_private_hosts"):
        await egress_to(resolver=FakeResolver()).fetch(literal)
    resolver = FakeResolver(mixed_test=[[PUBLIC, text]])
    with pytest.raises(Forbidden, match=r"mixed\.test leads to .*, no public address"):
        await egress_to(resolver=resolver).fetch("https://mixed.test/")


@pytest.mark.parametrize("text", ON_THE_INTERNET)
def test_an_address_on_the_internet_is_public(text: str) -> None:
    assert is_public(ip_address(text))


DOUBTFUL = [
    "http://2130706433/",
    "http://017700000001/",
    "http://0x7f000001/",
    "http://0x7f.1/",
    "http://127.1/",
    "http://0177.0.0.1/",
    "http://127.0.0.0x1/",
    "http://127.0.0.1./",
    "http://2852039166/latest/meta-data/",
    "http://0xa9fea9fe/",
    "http://0251.0376.0251.0376/",
    "http://0x08080808/",
    "http://256.1.1.1/",
    "http://127。0。0。1/",  # ideographic full stops
    "http://１２７.0.0.1/",  # noqa: RUF001 wide digits
    "http://①②⑦.⓪.⓪.①/",
    "http://[fe80::1%25eth0]/",
    "http://[fe80::1%eth0]/",
    "http://[::1/",
    "http://[::1]evil.example/",
    "http://::1/",
    "http://user@example.com/",
    "http://user:secret@example.com/",
    "http://example.com@127.0.0.1/",
    "http://example.com\\@127.0.0.1/",
    "http://127.0.0.1\\.example.com/",
    "http://127.0.0.1%00.example.com/",
    "http://127.0.0.1%2f.example.com/",
    "http://example.com:80:90/",
    "http://example.com:0/",
    "http://example.com:65536/",
    "http://example.com:-1/",
    "http://exa mple.com/",
    "http://example.com/\r\nX-Injected: 1",
    "http://exa\tmple.com/",
    "http://\x00example.com/",
    "http://.example.com/",
    "http://example..com/",
    "http://-.example/",
    f"http://{'a' * 64}.example/",
    f"http://{'a.' * 130}example/",
    f"http://example.com/{'a' * 9000}",
    "http:///etc/passwd",
    "http:/example.com/",
    "http:example.com",
    "//example.com/",
    "example.com",
    "",
    "/etc/passwd",
    "file:///etc/passwd",
    "FILE:///etc/passwd",
    "file://localhost/etc/passwd",
    "ftp://example.com/",
    "gopher://127.0.0.1:6379/_FLUSHALL",
    "dict://127.0.0.1:11211/stat",
    "ldap://127.0.0.1/",
    "data:text/html,hello",
    "javascript:alert(1)",
    "ws://example.com/",
    "jar:http://example.com!/",
]


@pytest.mark.parametrize("url", DOUBTFUL, ids=lambda url: ascii(url[:40]))
async def test_an_address_of_doubtful_form_is_refused_before_anybody_is_asked_for_it(url: str) -> None:
    resolver = FakeResolver()
    with pytest.raises((Forbidden, InvalidInput)) as refusal:
        await egress_to(resolver=resolver).fetch(url)
    assert "secret" not in refusal.value.detail
    assert resolver.asked == []


@pytest.mark.parametrize(
    ("url", "host"),
    [
        ("https://EXAMPLE.com/a?b=c#d", "example.com"),
        ("https://example.com./", "example.com"),
        ("https://bücher.example/", "xn--bcher-kva.example"),
        ("http://1and1.example/", "1and1.example"),
        ("http://3.example:8080/", "3.example"),
        ("http://_dmarc.example/", "_dmarc.example"),
        ("http://[2606:4700::1111]/", "2606:4700::1111"),
    ],
)
def test_an_ordinary_address_is_read(url: str, host: str) -> None:
    parsed = parse(url)
    assert (parsed.raw_host.decode(), parsed.fragment) == (host, "")


@given(st.text(), st.sampled_from(["", "http://", "https://", "http://a@", "http://[", "http://example.com", "//"]))
def test_no_text_is_too_odd_to_be_refused(text: str, before: str) -> None:
    try:
        parsed = parse(before + text)
    except (Forbidden, InvalidInput):
        return
    assert parsed.scheme in ("http", "https")
    assert re.fullmatch(r"[a-z0-9_.:-]+", parsed.raw_host.decode())
    assert not parsed.userinfo


# Names ----------------------------------------------------------------------------------------------------------------


async def test_the_connection_goes_to_the_address_that_was_judged_whatever_the_name_leads_to_next() -> None:
    """DNS rebinding: the first answer may be reached, the second may not; they are two servers at one port."""
    resolver = FakeResolver(rebinds_test=[["127.0.0.2"], ["127.0.0.1"]])
    guard = egress_to("127.0.0.2", resolver=resolver)
    async with (
        fake_site({"/": page("outside")}, host="127.0.0.2") as outside,
        fake_site({"/": page("inside")}, port=outside.port) as inside,
    ):
        url = f"http://rebinds.test:{outside.port}/"
        assert (await guard.fetch(url)).body == b"outside"
        assert resolver.asked == ["rebinds.test"]
        with pytest.raises(Forbidden, match=r"rebinds\.test leads to 127\.0\.0\.1, no public address"):
            await guard.fetch(url)
        assert (outside.connections, inside.connections) == (1, 0)


async def test_a_redirect_to_the_same_name_is_resolved_and_judged_anew() -> None:
    resolver = FakeResolver(rebinds_test=[["127.0.0.2"], ["127.0.0.1"]])
    guard = egress_to("127.0.0.2", resolver=resolver)
    async with (
        fake_site({"/": redirect("/again")}, host="127.0.0.2") as outside,
        fake_site({}, port=outside.port) as inside,
    ):
        with pytest.raises(Forbidden, match=r"leads to 127\.0\.0\.1"):
            await guard.fetch(f"http://rebinds.test:{outside.port}/")
        assert (outside.connections, inside.connections) == (1, 0)


async def test_the_next_address_is_tried_when_one_does_not_answer() -> None:
    resolver = FakeResolver(site_test=[["127.0.0.3", "127.0.0.1"]])
    async with fake_site({"/": page("here")}) as site:
        guard = egress_to("127.0.0.0/8", resolver=resolver)
        assert (await guard.fetch(f"http://site.test:{site.port}/")).status == 200


async def test_the_systems_own_resolver_is_guarded_too() -> None:
    assert ip_address("127.0.0.1") in await resolve("localhost")
    with pytest.raises(Forbidden, match="localhost leads to"):
        await Egress().fetch("http://localhost/")
    with pytest.raises(Unavailable, match=r"nobody\.invalid has no address"):
        await Egress().fetch("http://nobody.invalid/")


@pytest.mark.parametrize("port", [1, 22, 25, 6379, 8888, 65_535])
async def test_a_public_host_is_reached_at_the_webs_ports_only(port: int) -> None:
    resolver = FakeResolver(public_test=[[PUBLIC]])
    with pytest.raises(Forbidden, match=f"port {port} is not one of the web's"):
        await egress_to(resolver=resolver).fetch(f"https://public.test:{port}/")


async def test_a_neighbour_with_a_public_address_is_not_the_internet(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(egress, "own_networks", lambda: [ip_network("2606:4700::/64")])
    with pytest.raises(Forbidden, match="no public address"):
        await egress_to().fetch("http://[2606:4700::1111]/")


def test_this_machine_is_in_its_own_networks() -> None:
    addresses = [
        ip_address(entry.address.partition("%")[0])
        for entries in psutil.net_if_addrs().values()
        for entry in entries
        if entry.family.name in ("AF_INET", "AF_INET6") and entry.netmask
    ]
    assert addresses
    assert all(any(address in network for network in own_networks()) for address in addresses)


# What the operator permits --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("permitted", ["site.test", "SITE.test", "127.0.0.1", "127.0.0.0/8"])
async def test_what_the_operator_permits_is_reached_at_any_port(permitted: str) -> None:
    async with fake_site({"/a?b=c": page("hello", "text/plain; charset=utf-8")}) as site:
        url = f"http://site.test:{site.port}/a?b=c"
        fetched = await egress_to(permitted).fetch(f"{url}#part")
        assert (fetched.url, fetched.status, fetched.body) == (url, 200, b"hello")
        assert fetched.headers["content-type"] == "text/plain; charset=utf-8"
        assert site.headers()["host"] == f"site.test:{site.port}"
        # this daemon, which trusts programs on its own machine, must not take the agent for one
        assert site.headers()["forwarded"] == "for=_pocketpaw"


@pytest.mark.parametrize("permitted", ["other.test", "site", "test", "127.0.0.2", "10.0.0.0/8", "127.0.0.1/99"])
async def test_nothing_else_is_permitted_by_it(permitted: str) -> None:
    with pytest.raises(Forbidden):
        await egress_to(permitted).fetch("http://site.test/")


# Redirects ------------------------------------------------------------------------------------------------------------

FORBIDDEN_TARGETS = [
    "http://169.254.169.254/latest/meta-data/",
    "http://[::ffff:169.254.169.254]/",
    "http://2852039166/",
    "//127.0.0.2/",
    "http://elsewhere.test/",
    "file:///etc/passwd",
    "ftp://site.test/",
    "http://user:secret@site.test/",
    "http://[::1",
    "http://site.test:99999/",
]


@pytest.mark.parametrize("location", FORBIDDEN_TARGETS)
async def test_a_redirect_leads_nowhere_that_could_not_be_fetched(location: str) -> None:
    resolver = FakeResolver(site_test=[["127.0.0.1"]], elsewhere_test=[["127.0.0.1"]])
    async with fake_site({"/": redirect(location)}) as site:
        with pytest.raises(Forbidden) as refusal:
            await egress_to("site.test", resolver=resolver).fetch(f"http://site.test:{site.port}/")
        assert site.paths == ["/"]
        assert "secret" not in refusal.value.detail


@pytest.mark.parametrize("status", ["301 Moved", "302 Found", "303 See Other", "307 Temporary", "308 Permanent"])
async def test_redirects_are_followed_five_times_and_no_more(status: str) -> None:
    steps = {f"/{step}": redirect(f"{step + 1}", status) for step in range(6)}
    async with fake_site({**steps, "/5": page("there")}) as site:
        fetched = await egress_to("site.test").fetch(f"http://site.test:{site.port}/0")
        assert (fetched.url, fetched.body) == (f"http://site.test:{site.port}/5", b"there")
        site.pages["/5"] = redirect("/6")
        with pytest.raises(Unavailable, match="redirects more than 5 times"):
            await egress_to("site.test").fetch(f"http://site.test:{site.port}/0")


async def test_a_redirect_may_be_to_a_path_in_utf_8() -> None:
    async with fake_site({"/": redirect("/gr\u00fc\u00dfe"), "/gr%C3%BC%C3%9Fe": page("there")}) as site:
        assert (await egress_to("site.test").fetch(f"http://site.test:{site.port}/")).body == b"there"


async def test_any_status_is_an_answer() -> None:
    async with fake_site({"/a": page("x", status="302 Found"), "/b": page("x", status="500 Oops")}) as site:
        for path, status in (("/a", 302), ("/b", 500), ("/c", 404)):
            assert (await egress_to("site.test").fetch(f"http://site.test:{site.port}{path}")).status == status


async def test_credentials_stay_with_the_server_they_were_given_for() -> None:
    resolver = FakeResolver(site_test=[["127.0.0.1"]], other_test=[["127.0.0.1"]])
    guard = egress_to("127.0.0.1", resolver=resolver)
    async with fake_site({"/there": page("there")}) as other, fake_site({"/same": page("same")}) as site:
        site.pages["/a"] = redirect("/same")
        site.pages["/b"] = redirect(f"http://other.test:{other.port}/there")
        site.pages["/c"] = redirect(f"http://site.test:{other.port}/there")
        for path in ("/a", "/b", "/c"):
            await guard.fetch(f"http://site.test:{site.port}{path}", credentials=[(b"authorization", b"Bearer key")])
        assert [site.headers(index).get("authorization") for index in range(4)] == ["Bearer key"] * 4
        assert [other.headers(index).get("authorization") for index in range(2)] == [None, None]


async def test_a_fetch_that_stays_follows_no_redirect_to_another_host_but_names_it() -> None:
    answers = {name: [["127.0.0.1"]] for name in ("site_test", "www_site_test", "other_test")}
    guard = egress_to("127.0.0.1", resolver=FakeResolver(**answers))
    async with fake_site({"/here": page("here"), "/here?secret=1": page("there")}) as site:
        site.pages["/www"] = redirect(f"http://www.site.test:{site.port}/here")
        site.pages["/other"] = redirect(f"http://other.test:{site.port}/here?secret=1")
        url = f"http://site.test:{site.port}"
        assert (await guard.fetch(f"{url}/www", stays=True)).body == b"here"
        assert (await guard.fetch(f"{url}/other")).body == b"there"
        with pytest.raises(Forbidden, match=r"redirects to another host: http://other\.test:\d+/here"):
            await guard.fetch(f"{url}/other", stays=True)


# Limits ---------------------------------------------------------------------------------------------------------------


async def test_a_body_has_a_limit_also_when_it_is_endless() -> None:
    async def endless(stream: trio.abc.Stream) -> None:
        await stream.send_all(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n")
        while True:
            await stream.send_all(b"ffff\r\n" + b"x" * 0xFFFF + b"\r\n")

    async with fake_site({"/endless": endless, "/whole": page(b"x" * 1000)}) as site:
        url, guard = f"http://site.test:{site.port}", egress_to("site.test")
        assert len((await guard.fetch(f"{url}/whole", limit_bytes=1000)).body) == 1000
        for path, limit in (("/whole", 999), ("/endless", 1_000_000)):
            with pytest.raises(TooLarge, match=rf"site\.test: the answer is larger than {limit:,} bytes"):
                await guard.fetch(url + path, limit_bytes=limit)


async def test_a_compressed_body_is_limited_by_what_it_becomes() -> None:
    bomb = gzip.compress(b"\0" * 20_000_000)
    assert len(bomb) < 30_000
    async with fake_site({}) as site:
        site.pages["/bomb"] = page(bomb, "text/plain", "content-encoding: gzip")
        site.pages["/good"] = page(gzip.compress(b"hello " * 1000), "text/plain", "content-encoding: gzip")
        site.pages["/bad"] = page(b"this is no gzip", "text/plain", "content-encoding: gzip")
        site.pages["/br"] = page(b"...", "text/plain", "content-encoding: br")
        site.pages["/twice"] = page(gzip.compress(bomb), "text/plain", "content-encoding: gzip, gzip")
        url, guard = f"http://site.test:{site.port}", egress_to("site.test")
        assert (await guard.fetch(f"{url}/good")).body == b"hello " * 1000
        with pytest.raises(TooLarge):
            await guard.fetch(f"{url}/bomb")
        body = Body("site.test", "gzip", 1000)
        with pytest.raises(TooLarge):
            body.add(bomb)
        assert len(body.data) == 1001  # it is noticed before all of it is in memory
        site.pages["/cut"] = page(gzip.compress(b"hello " * 1000)[:-9], "text/plain", "content-encoding: gzip")
        with pytest.raises(Unavailable, match="breaks off before its end"):
            await guard.fetch(f"{url}/cut")
        with pytest.raises(Unavailable, match="gzip is damaged"):
            await guard.fetch(f"{url}/bad")
        for path in ("/br", "/twice"):
            with pytest.raises(Unavailable, match="not asked for"):
                await guard.fetch(url + path)


async def test_headers_have_a_limit() -> None:
    async with fake_site({"/": b"HTTP/1.1 200 OK\r\n" + b"x: y\r\n" * 50_000 + b"\r\n"}) as site:
        with pytest.raises(Unavailable, match=r"site\.test: "):
            await egress_to("site.test").fetch(f"http://site.test:{site.port}/")


async def test_all_of_a_fetch_has_one_time_limit_however_slowly_the_server_goes_on() -> None:
    async def drip(stream: trio.abc.Stream) -> None:
        await stream.send_all(b"HTTP/1.1 200 OK\r\n\r\n")
        while True:
            await stream.send_all(b"x")
            await trio.sleep(0.01)

    async with fake_site({"/": drip}) as site:
        with pytest.raises(TimedOut, match=r"site\.test did not answer in full within 0\.2 s"):
            await egress_to("site.test").fetch(f"http://site.test:{site.port}/", within_s=0.2)


@pytest.mark.parametrize(
    "answer", [b"", b"HTTP/1.1 200", b"SSH-2.0-OpenSSH_9.6\r\n", b"HTTP/1.1 200 OK\r\nbad\r\n\r\n"]
)
async def test_a_server_that_breaks_the_protocol_is_named(answer: bytes) -> None:
    async with fake_site({"/": answer}) as site:
        with pytest.raises(Unavailable, match=r"site\.test: "):
            await egress_to("site.test").fetch(f"http://site.test:{site.port}/")


async def test_a_server_that_is_not_there_is_named() -> None:
    with pytest.raises(Unavailable, match=r"site\.test: Connection refused"):
        await egress_to("site.test").fetch("http://site.test:1/")


# TLS ------------------------------------------------------------------------------------------------------------------


@pytest.fixture
def tls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ssl.SSLContext:
    """A server's context for `site.test`, whose certificate is trusted as if it were in the system's store."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "site.test")])
    now = dt.datetime.now(dt.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - dt.timedelta(days=1))
        .not_valid_after(now + dt.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("site.test")]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    private = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    pem = tmp_path / "site.pem"
    pem.write_bytes(key.private_bytes(*private) + certificate.public_bytes(serialization.Encoding.PEM))
    monkeypatch.setenv("SSL_CERT_FILE", str(pem))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pem)
    return context


async def test_tls_is_checked_against_the_name_although_the_address_is_pinned(tls: ssl.SSLContext) -> None:
    resolver = FakeResolver(site_test=[["127.0.0.1"]], other_test=[["127.0.0.1"]])
    guard = egress_to("127.0.0.1", resolver=resolver)
    async with fake_site({"/": page("hello")}, tls=tls) as site:
        assert (await guard.fetch(f"https://site.test:{site.port}/")).body == b"hello"
        with pytest.raises(Unavailable, match=r"other\.test: its certificate is not accepted"):
            await guard.fetch(f"https://other.test:{site.port}/")


async def test_a_redirect_does_not_leave_tls(tls: ssl.SSLContext) -> None:
    async with fake_site({"/": page("plain")}) as plain, fake_site({}, tls=tls) as site:
        site.pages["/"] = redirect(f"http://site.test:{plain.port}/")
        with pytest.raises(Forbidden, match="redirects from https to http"):
            await egress_to("site.test").fetch(f"https://site.test:{site.port}/")
        assert plain.heads == []


async def test_nothing_is_left_open_when_a_handshake_takes_too_long(tls: ssl.SSLContext) -> None:
    gone = trio.Event()

    async def silent(stream: trio.SocketStream) -> None:
        while await stream.receive_some(65_536):
            pass
        gone.set()

    async with trio.open_nursery() as nursery:
        (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
        nursery.start_soon(trio.serve_listeners, silent, [listener])
        port = listener.socket.getsockname()[1]
        with pytest.raises(TimedOut):
            await egress_to("site.test").fetch(f"https://site.test:{port}/", within_s=0.2)
        with trio.fail_after(2):
            await gone.wait()
        nursery.cancel_scope.cancel()
