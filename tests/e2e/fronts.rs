//! One port 443 and several servers: the relay behind proxies, and other servers behind the relay.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, mpsc};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use serde_json::{Value, json};

use crate::calls::{SFU_PROGRAMS, call_echo, only};
use crate::certs::{Authority, Certs};
use crate::chromium::Chromium;
use crate::firefox::Firefox;
use crate::janus::Janus;
use crate::lab::{CLIENTS, Firewall, Lab, RELAY, RELAY_HOST};
use crate::one_at_a_time;
use crate::process::Process;
use crate::proxies;
use crate::relay::Relay;
use relay_testkit_server::http3_site::{GREETING, Site};

/// Where the relay listens behind a proxy.
const BEHIND: u16 = 8443;
const TLS_URI: &str = "turns:turn.example.test:443?transport=tcp";
const WEB_HOST: &str = "www.example.test";

#[test]
fn behind_nginx_that_routes_by_name_media_flows_over_tls() {
    let stream = format!(
        "stream {{
           map $ssl_preread_server_name $backend {{ {RELAY_HOST} 127.0.0.1:{BEHIND}; default 127.0.0.1:1; }}
           server {{ listen 443; ssl_preread on; proxy_pass $backend; }}
         }}"
    );
    let log = call_behind(|lab, _| proxies::nginx(lab, 443, &stream), "127.0.0.1", "");
    assert!(
        log.contains("client=127.0.0.1:") && log.contains("transport=\"tls\""),
        "{log}"
    );
}

#[test]
fn behind_nginx_that_ends_tls_media_flows_over_plain_tcp_inside() {
    let nginx = |lab: &Lab, certs: &Certs| {
        let stream = format!(
            "stream {{
               server {{
                 listen 443 ssl;
                 ssl_certificate {};
                 ssl_certificate_key {};
                 proxy_timeout 30s;
                 proxy_pass 127.0.0.1:{BEHIND};
               }}
             }}",
            certs.certificate.display(),
            certs.private_key.display()
        );
        proxies::nginx(lab, 443, &stream)
    };
    let log = call_behind(nginx, "127.0.0.1", "");
    assert!(
        log.contains("client=127.0.0.1:") && log.contains("transport=\"tcp\""),
        "{log}"
    );
    let warnings = log.matches("a proxy without PROXY header hides its clients").count();
    assert_eq!(warnings, 1, "{log}");
}

//= XPORT-19
#[test]
fn behind_haproxy_that_passes_tls_on_the_clients_address_is_known_and_no_strangers_header_is_believed() {
    let sections = format!(
        "frontend front
  bind :443
  tcp-request inspect-delay 5s
  tcp-request content accept if {{ req_ssl_hello_type 1 }}
  use_backend relay if {{ req_ssl_sni -i {RELAY_HOST} }}
backend relay
  server relay 127.0.0.1:{BEHIND} send-proxy-v2
"
    );
    let haproxy = |lab: &Lab, _: &Certs| proxies::haproxy(lab, 443, &sections);
    let log = call_behind(haproxy, "*", PROXIED);
    let client = format!("client={}:", CLIENTS[0]);
    assert!(log.contains(&client) && log.contains("transport=\"tls\""), "{log}");
}

//= XPORT-19
#[test]
fn behind_haproxy_that_ends_tls_the_clients_address_is_known() {
    let haproxy = |lab: &Lab, certs: &Certs| {
        let both = proxies::joined(lab.folder(), &certs.certificate, &certs.private_key);
        let sections = format!(
            "frontend front
  bind :443 ssl crt {}
  default_backend relay
backend relay
  server relay 127.0.0.1:{BEHIND} send-proxy-v2
",
            both.display()
        );
        proxies::haproxy(lab, 443, &sections)
    };
    let log = call_behind(haproxy, "*", PROXIED);
    let client = format!("client={}:", CLIENTS[0]);
    assert!(log.contains(&client) && log.contains("transport=\"tcp\""), "{log}");
}

/// Firefox refuses 127.0.0.1 as its own mapped address: without the header it gathers no relay
/// candidate.
//= XPORT-19
#[test]
fn behind_the_nginx_of_openvidus_page_firefox_is_told_its_own_address_and_media_flows() {
    let _turn = one_at_a_time();
    let lab = Lab::new(Firewall::OnlyTcp443, &["firefox-esr", "certutil", "janus", "nginx"]);
    let certs = Certs::make(lab.folder(), RELAY_HOST);
    let page = include_str!("../../docs/recipes/openvidu.md");
    let toml = block(page, "```toml relay.toml\n");
    let relay = Relay::start(&lab, &certs, &toml[toml.find("[[listener]]").expect("a listener")..]);
    let stream = block(page, "```nginx nginx.conf\n")
        .replace("turn.example.org", RELAY_HOST)
        .replace("/etc/relay/fullchain.pem", &certs.certificate.display().to_string())
        .replace("/etc/relay/privkey.pem", &certs.private_key.display().to_string());
    let mut nginx = proxies::nginx(&lab, 443, &stream);
    let mut janus = Janus::start(&lab);
    let mut browser = Firefox::start(&lab, 0, &certs);

    let configuration = on_443(&relay.mint_configuration());
    call_echo(&mut browser, &mut janus, &configuration, &["tls"]);

    nginx.assert_running();
    let client = format!("client={}:", CLIENTS[0]);
    let log = relay.log();
    assert!(log.contains(&client) && log.contains("transport=\"tcp\""), "{log}");
    relay.stop();
}

/// The text in `page` between the line `fence` and the end of its block.
fn block<'a>(page: &'a str, fence: &str) -> &'a str {
    let (_, rest) = page.split_once(fence).expect("a block of the page");
    rest.split_once("```").expect("its end").0
}

const PROXIED: &str = "proxy_protocol = \"required\"\ntrusted_proxies = [\"127.0.0.1\"]\n";

/// Chromium calls the SFU through a proxy on 443 of the relay's machine, with the relay behind it
/// on another port. Returns the relay's log.
fn call_behind(proxy: impl FnOnce(&Lab, &Certs) -> Process, bind: &str, listener: &str) -> String {
    let _turn = one_at_a_time();
    let lab = Lab::new(Firewall::OnlyTcp443, &[SFU_PROGRAMS, &["nginx", "haproxy"]].concat());
    let certs = Certs::make(lab.folder(), RELAY_HOST);
    let settings =
        format!("\n[[listener]]\nbind = \"{bind}:{BEHIND}\"\nprotocols = [\"tcp\", \"tls\", \"https\"]\n{listener}");
    let relay = Relay::start(&lab, &certs, &settings);
    let mut proxy = proxy(&lab, &certs);
    let mut janus = Janus::start(&lab);
    let mut browser = Chromium::start(&lab, 0, &certs);

    let configuration = on_443(&relay.mint_configuration());
    call_echo(&mut browser, &mut janus, &configuration, &["tls"]);

    let passed = lab.passed();
    assert!(
        passed.tcp_443 > 1000 && passed.udp_443 == 0 && passed.other == 0,
        "{passed:?}"
    );
    if !listener.is_empty() {
        // From the SFU's machine, which reaches every port of the relay.
        let before = relay.metric("relay_connections_total{outcome=\"untrusted_proxy\"}");
        assert!(is_refused(lab.sfu()), "a stranger's header is believed");
        let after = relay.metric("relay_connections_total{outcome=\"untrusted_proxy\"}");
        assert!(after > before, "{before} {after}");
    }
    proxy.assert_running();
    let log = relay.log();
    relay.stop();
    log
}

/// The credential of `configuration` for TLS on the proxy's port; the relay itself knows only its
/// own.
fn on_443(configuration: &Value) -> Value {
    let mut server = configuration["iceServers"][0].clone();
    server["urls"] = json!([TLS_URI]);
    json!({"iceServers": [server]})
}

/// Whether the relay behind a proxy refuses another sender in `namespace` that sends a PROXY header
/// and a request.
fn is_refused(namespace: &crate::lab::Namespace) -> bool {
    let address = SocketAddr::from((RELAY, BEHIND));
    let attempt = || -> std::io::Result<usize> {
        let mut stranger = TcpStream::connect_timeout(&address, Duration::from_secs(5))?;
        stranger.set_read_timeout(Some(Duration::from_secs(20)))?;
        stranger
            .write_all(b"PROXY TCP4 127.0.0.1 127.0.0.1 1000 443\r\n\x00\x01\x00\x00\x21\x12\xa4\x42abcdefghijkl")?;
        stranger.read(&mut [0; 64])
    };
    match namespace.within(attempt) {
        Ok(read) => read == 0,
        // It may close before the whole header is sent. A missing listener, or no reaction, would
        // not be a refusal.
        Err(error) => matches!(error.kind(), ErrorKind::ConnectionReset | ErrorKind::BrokenPipe),
    }
}

/// A web site under its own name and certificate, one behind the relay's name, credentials, and
/// media, all on one port of one process.
#[test]
fn one_port_serves_a_web_site_by_name_the_api_and_media() {
    let _turn = one_at_a_time();
    let lab = Lab::new(Firewall::OnlyTcp443, &[SFU_PROGRAMS, &["nginx"]].concat());
    let authority = Authority::make(lab.folder());
    let (certs, web) = (authority.certify(RELAY_HOST), authority.certify(WEB_HOST));
    let http = format!(
        "http {{
           {temporary}
           access_log /dev/stderr;
           default_type text/plain;
           add_header Access-Control-Allow-Origin *;
           server {{
             listen 127.0.0.1:8444 ssl proxy_protocol;
             server_name {WEB_HOST};
             ssl_certificate {certificate};
             ssl_certificate_key {key};
             return 200 \"site for $proxy_protocol_addr\";
           }}
           server {{
             listen 127.0.0.1:8080;
             return 200 \"upstream for $http_x_forwarded_for over $http_x_forwarded_proto at $host\";
           }}
         }}",
        temporary = proxies::nginx_temporary_paths(&lab),
        certificate = web.certificate.display(),
        key = web.private_key.display(),
    );
    let mut nginx = proxies::nginx(&lab, 8080, &http);
    let settings = format!(
        "\n[front_door]\nhttp_upstream = \"127.0.0.1:8080\"\n[[front_door.route]]\nnames = [\"{WEB_HOST}\"]\n\
         backend = \"127.0.0.1:8444\"\nproxy_header = true\n"
    );
    let relay = Relay::start(&lab, &certs, &settings);
    let mut janus = Janus::start(&lab);
    let mut browser = Chromium::start(&lab, 0, &certs);

    let mut fetch = |host: &str| browser.call_page("fetchText", &[&format!("https://{host}/").into()]);
    assert_eq!(fetch(WEB_HOST), format!("site for {}", CLIENTS[0]));
    assert_eq!(
        fetch(RELAY_HOST),
        format!("upstream for {} over https at {RELAY_HOST}", CLIENTS[0])
    );
    let configuration = only(TLS_URI, &relay.fetch_configuration(&mut browser));
    call_echo(&mut browser, &mut janus, &configuration, &["tls"]);

    let passed = lab.passed();
    assert!(
        passed.tcp_443 > 1000 && passed.udp_443 == 0 && passed.other == 0,
        "{passed:?}"
    );
    assert!(relay.metric("relay_connections_total{outcome=\"routed\"}") >= 1.0);
    nginx.assert_running();
    relay.stop();
}

/// With only UDP 443 open: a web site over HTTP/3 and media, from one process.
#[test]
fn one_udp_port_serves_a_web_site_over_http3_and_media() {
    const LEN: usize = 2_000_000;
    let _turn = one_at_a_time();
    let lab = Lab::new(Firewall::OnlyUdp443, SFU_PROGRAMS);
    let authority = Authority::make(lab.folder());
    let (certs, web) = (authority.certify(RELAY_HOST), authority.certify(WEB_HOST));
    let socket = lab
        .relay()
        .within(|| UdpSocket::bind("127.0.0.1:8443").expect("nobody is there"));
    let chain = CertificateDer::pem_file_iter(&web.certificate)
        .expect("PEM")
        .map(|one| one.expect("a certificate"));
    let key = PrivateKeyDer::from_pem_file(&web.private_key).expect("a key");
    let _site = Site::start(socket, chain.collect(), key, false);
    let relay = Relay::start(&lab, &certs, "\n[front_door.http3]\nbackend = \"127.0.0.1:8443\"\n");
    let mut janus = Janus::start(&lab);
    let mut browser = Chromium::start_over_http3(&lab, 0, &certs, WEB_HOST);

    let greeting = browser.call_page("fetchText", &[&format!("https://{WEB_HOST}/").into()]);
    assert_eq!(greeting, format!("{GREETING}127.0.0.1"));
    let uri = format!("turn:{RELAY_HOST}:443?transport=udp");
    let configuration = only(&uri, &relay.mint_configuration());
    call_echo(&mut browser, &mut janus, &configuration, &["udp"]);
    // A download during the call.
    let url = format!("https://{WEB_HOST}/{LEN}");
    let download = format!("fetch('{url}').then(response => response.arrayBuffer()).then(body => body.byteLength)");
    assert_eq!(browser.evaluate(&download), LEN);
    let protocol = format!("performance.getEntriesByName('{url}')[0].nextHopProtocol");
    assert_eq!(browser.evaluate(&protocol), "h3");
    let sample = browser.call_page("sample", &[]);
    assert_eq!(sample["state"], "connected", "{sample:#}");

    let passed = lab.passed();
    assert!(
        passed.udp_443 > 1000 && passed.tcp_443 == 0 && passed.other == 0,
        "{passed:?}"
    );
    assert!(relay.metric("relay_http3_bytes_total{direction=\"to_client\"}") > LEN as f64);
    assert_eq!(relay.metric("relay_http3_flows_unproven"), 0.0);
    relay.stop();
}

/// 500 half-open handshakes and 500 connections with one byte per second.
#[test]
fn a_thousand_half_open_connections_keep_no_call_out_and_cost_none_a_packet() {
    let _turn = one_at_a_time();
    let lab = Lab::new(Firewall::OnlyTcp443, SFU_PROGRAMS);
    let certs = Certs::make(lab.folder(), RELAY_HOST);
    // Here they come from one address, and should be as many as from a thousand.
    let relay = Relay::start(
        &lab,
        &certs,
        "\n[limits]\nconnections_per_ip = 5000\nhandshakes = 256\n",
    );
    let mut janus = Janus::start(&lab);
    let mut running = Chromium::start(&lab, 0, &certs);
    let mut new = Chromium::start(&lab, 1, &certs);
    let configuration = only(TLS_URI, &relay.fetch_configuration(&mut running));
    call_echo(&mut running, &mut janus, &configuration, &["tls"]);
    let before = running.call_page("sample", &[]);

    let mut set_up = || {
        janus.attach();
        let begun = Instant::now();
        let offer = new.call_page("offer", &[&configuration]);
        let answer = janus.answer(offer.as_str().expect("an offer is text"));
        new.call_page("accept", &[&Value::from(answer)]);
        new.call_page("connected", &[]);
        let took = begun.elapsed();
        new.evaluate("connection.close()");
        took
    };
    // The browser's speed depends on other load on this machine.
    let quiet = (0..3).map(|_| set_up()).max().expect("three calls");
    let attack = Attack::start(&lab);
    let setups: Vec<Duration> = (0..3).map(|_| set_up()).collect();
    let opened = attack.end();

    let sample = running.call_page("sample", &[]);
    assert_eq!(sample["state"], "connected", "{sample:#}");
    assert_eq!(
        sample["packetsLost"],
        before["packetsLost"],
        "{sample:#}
{}",
        relay.losses()
    );
    assert!(opened >= 1000, "{opened} connections are no attack");
    let evicted = relay.metric("relay_connections_total{outcome=\"evicted\"}");
    assert!(evicted > 0.0, "none had to give way");
    assert!(
        setups.iter().all(|&setup| setup < 2 * quiet + Duration::from_secs(2)),
        "calls took {setups:?} to set up, without the attack {quiet:?}"
    );
    eprintln!(
        "calls set up in {setups:?}, without the attack in {quiet:?}, while {opened} connections were opened, {evicted} of them evicted"
    );
    relay.stop();
}

/// Keeps 1000 connections half open from the second client's address, and reopens those that are
/// closed.
struct Attack {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<usize>,
}

impl Attack {
    const EACH: usize = 500;

    /// Returns once all are open.
    fn start(lab: &Lab) -> Self {
        let namespace = lab.client(1).clone();
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let (open, opened) = mpsc::channel();
        let thread = thread::spawn(move || namespace.within(|| Self::run(&stopped, &open)));
        opened
            .recv_timeout(Duration::from_secs(10))
            .expect("all connections are open");
        Self { stop, thread }
    }

    /// Returns how many connections were opened.
    fn end(self) -> usize {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().expect("the attack goes on to its end")
    }

    fn run(stop: &AtomicBool, open: &mpsc::Sender<()>) -> usize {
        let hello = client_hello();
        let mut connections: Vec<Option<(TcpStream, usize)>> = (0..2 * Self::EACH).map(|_| None).collect();
        let mut opened = 0;
        while !stop.load(Ordering::Relaxed) {
            let begun = Instant::now();
            for (index, connection) in connections.iter_mut().enumerate() {
                if let Some((stream, sent)) = connection {
                    // The first half send nothing more; the others send the next byte.
                    let more = if index < Self::EACH { 0 } else { 1 };
                    let alive = stream.write_all(&hello[*sent..(*sent + more).min(hello.len())]).is_ok();
                    *sent += more;
                    if alive && !is_closed(stream) {
                        continue;
                    }
                }
                let address = SocketAddr::from((RELAY, 443));
                *connection = TcpStream::connect_timeout(&address, Duration::from_secs(1))
                    .ok()
                    .map(|mut stream| {
                        let first = if index < Self::EACH { hello.len() } else { 1 };
                        let _ = stream
                            .set_nonblocking(true)
                            .and_then(|()| stream.write_all(&hello[..first]));
                        opened += 1;
                        (stream, first)
                    });
            }
            let _ = open.send(());
            thread::sleep(Duration::from_secs(1).saturating_sub(begun.elapsed()));
        }
        opened
    }
}

/// Reads all pending data to see whether the connection has ended.
fn is_closed(stream: &mut TcpStream) -> bool {
    let mut read = [0; 4096];
    loop {
        match stream.read(&mut read) {
            Ok(0) => return true,
            Ok(_) => {}
            Err(error) => return error.kind() != ErrorKind::WouldBlock,
        }
    }
}

fn client_hello() -> Vec<u8> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("the provider speaks TLS")
        .with_root_certificates(rustls::RootCertStore::empty())
        .with_no_client_auth();
    let name = RELAY_HOST.try_into().expect("a host name");
    let mut client = rustls::ClientConnection::new(Arc::new(config), name).expect("a client");
    let mut bytes = Vec::new();
    client.write_tls(&mut bytes).expect("memory takes all");
    bytes
}
