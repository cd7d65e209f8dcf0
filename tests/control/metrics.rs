//! The admin listener: metrics as Prometheus reads them and as `docs/operations.md` lists them, health, readiness.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::http::{Method, Request, StatusCode};
use relay::base::address::Transport;
use relay::base::time::UnixTime;
use relay::control::admin::counters::{AdminCounters, AdminRefusal};
use relay::control::api::counters::ApiCounters;
use relay::control::health::Health;
use relay::control::metrics::{Metrics, Sources};
use relay::control::phase::Phase;
use relay::control::process_counters::{ProcessCounters, ReloadOutcome};
use relay::control::{admin, http_server};
use relay::edge::certificates::{CertificateSource, SelfSigned, TlsStore};
use relay::edge::front_door::{Backends, FrontDoor, FrontDoorLimits};
use relay::machine::certificate::CertificateFiles;
use relay::shard::LogClient;
use relay::shard::counters::ShardCounters;
use relay::turn::counters::Counters;
use relay::turn::output::{DropReason, EndReason};
use relay::turn::policy::Denied;
use relay::turn::types::Path;
use relay::turn::{PortGauges, Refusal, RefusalReason};
use relay_testkit::folder::Folder;
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::time::timeout;
use tower::ServiceExt;

struct Admin {
    counters: Arc<AdminCounters>,
    ports: Arc<PortGauges>,
    shards: Vec<Arc<Counters>>,
    workers: Vec<Arc<ShardCounters>>,
    health: Arc<Health>,
    process: Arc<ProcessCounters>,
    router: Router,
}

/// One self-signed certificate that ends at 1,800,000,000.
fn certificates() -> TlsStore {
    let directory = Folder::new();
    let files = CertificateFiles {
        certificate: directory.join("cert.pem"),
        private_key: directory.join("key.pem"),
        state_dir: Some(directory.to_path_buf()),
    };
    let wanted = SelfSigned {
        names: vec!["relay.test".to_owned()],
        addresses: Vec::new(),
    };
    let made = UnixTime(1_800_000_000 - 396 * 86_400);
    let opened = TlsStore::open(vec![CertificateSource::SelfSigned(files, wanted)], made);
    opened.expect("a certificate").0
}

fn admin() -> Admin {
    let shards = vec![Arc::new(Counters::default()), Arc::new(Counters::default())];
    let ports = Arc::new(PortGauges::default());
    ports.total.iter().for_each(|total| total.set(100));
    let workers = vec![Arc::new(ShardCounters::default()), Arc::new(ShardCounters::default())];
    let second = Duration::from_secs(1);
    let limits = FrontDoorLimits {
        connections: 10,
        connections_per_source: 10,
        connections_per_network: 1000,
        new_connections_per_second: 1000,
        unproven: 10,
        handshake_timeout: second,
        http_header_timeout: second,
        http_lifetime: second,
        stop_timeout: second,
    };
    let health = Arc::new(Health::new(shards.clone(), Arc::clone(&ports), 1000, || {
        Duration::from_millis(3)
    }));
    let process = Arc::new(ProcessCounters::new(UnixTime(1_700_000_000)));
    let counters = Arc::new(AdminCounters::default());
    let metrics = Metrics::new(Sources {
        turn: shards.clone(),
        relay_ports: Arc::clone(&ports),
        shards: workers.clone(),
        front_door: FrontDoor::new(
            limits,
            LogClient::Full,
            None,
            Router::new(),
            Backends::default(),
            |_| {},
        ),
        api: Arc::new(ApiCounters::default()),
        health: Arc::clone(&health),
        process: Arc::clone(&process),
        lost_log_lines: Box::new(|| 5),
        left_out_log_lines: Box::new(|| 6),
        admin: Arc::clone(&counters),
        tls: Some(Arc::new(certificates())),
        acme: None,
    });
    let hosts = vec!["relay.internal".to_owned()];
    let metrics = Arc::new(metrics.expect("families"));
    let router = admin::router(metrics, Arc::clone(&health), None, hosts, Arc::clone(&counters));
    Admin {
        counters,
        ports,
        shards,
        workers,
        health,
        process,
        router,
    }
}

async fn call(router: &Router, method: Method, path: &str) -> (StatusCode, String) {
    call_for(router, method, path, "localhost:13478").await
}

async fn call_for(router: &Router, method: Method, path: &str, host: &str) -> (StatusCode, String) {
    let request = Request::builder()
        .method(method)
        .uri(path)
        .header("host", host)
        .body(Body::empty())
        .expect("request");
    let response = router.clone().oneshot(request).await.expect("infallible");
    assert_eq!(response.headers()["cache-control"], "no-store");
    let status = response.status();
    let bytes = to_bytes(response.into_body(), usize::MAX).await.expect("body");
    (status, String::from_utf8(bytes.to_vec()).expect("UTF-8"))
}

async fn scrape(router: &Router) -> String {
    let (status, text) = call(router, Method::GET, "/metrics").await;
    assert_eq!(status, StatusCode::OK, "{text}");
    text
}

/// The value of one series, written as in the text format.
fn value(text: &str, series: &str) -> f64 {
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
    line.unwrap_or_else(|| panic!("{series} is missing in\n{text}"))
        .parse()
        .expect("number")
}

#[tokio::test]
async fn the_counters_of_all_shards_are_added_up() {
    let admin = admin();
    for (i, shard) in (1..).zip(&admin.shards) {
        shard.received.add(10 * i);
        shard.answered.add(i);
        shard.drop_packet(DropReason::NoPermission);
        shard.drop_packet(DropReason::NotTurn);
        shard.error_response(401);
        shard.up[Path::Forced as usize][Transport::Tls as usize]
            .bytes
            .add(1000 * i);
        shard.down[Path::Other as usize][Transport::Udp as usize]
            .packets
            .add(7 * i);
        shard.forced_refused[Transport::Tcp as usize].add(i);
        let peer = "10.0.0.1:1".parse().expect("an address");
        let rule = Denied::Private;
        shard.refusals.count(&Refusal::PeerDenied { peer, rule });
        shard.allocations[Transport::Tcp as usize].set(i);
        shard.allocations_ended[EndReason::Expired as usize].add(i);
        admin.ports.used[i as usize - 1].set(i);
    }
    for (i, worker) in (1..).zip(&admin.workers) {
        worker.send_failed[0].add(i);
        worker.streams.set(10 * i);
        worker.stream_queue_age.record(Duration::from_millis(3 * i));
        worker.gro.set(1);
        worker.stream_flushes.add(50 * i);
        worker.stream_blocked.add(2 * i);
        worker.stream_held.add(3 * i);
    }
    admin.workers[0].gso.set(1);
    let text = scrape(&admin.router).await;
    for (series, expected) in [
        ("relay_streams", 30.0),
        ("relay_stream_flushes_total{outcome=\"blocked\"}", 6.0),
        ("relay_stream_flushes_total{outcome=\"held\"}", 9.0),
        ("relay_stream_flushes_total{outcome=\"done\"}", 135.0),
        ("relay_connections", 0.0),
        ("relay_forced_refused_total{transport=\"tcp\"}", 3.0),
        ("relay_refusals_total{reason=\"peer_denied\"}", 2.0),
        ("relay_refusals_total{reason=\"wrong_password\"}", 0.0),
        ("relay_peers_refused_total{rule=\"private\"}", 2.0),
        ("relay_udp_offload{kind=\"gro\"}", 1.0),
        ("relay_udp_offload{kind=\"gso\"}", 0.0),
        ("relay_stream_queue_age_seconds_bucket{le=\"0.001\"}", 0.0),
        ("relay_stream_queue_age_seconds_bucket{le=\"0.005\"}", 1.0),
        ("relay_stream_queue_age_seconds_bucket{le=\"0.5\"}", 2.0),
        ("relay_stream_queue_age_seconds_bucket{le=\"+Inf\"}", 2.0),
        ("relay_stream_queue_age_seconds_count", 2.0),
        ("relay_stream_queue_age_seconds_sum", 0.009),
        ("relay_connections_accepted_total", 0.0),
        ("relay_worker_heartbeat_age_seconds", 0.003),
        ("relay_received_packets_total", 30.0),
        ("relay_verdicts_total{verdict=\"answered\"}", 3.0),
        ("relay_verdicts_total{verdict=\"dropped\"}", 4.0),
        ("relay_dropped_packets_total{reason=\"no_permission\"}", 2.0),
        ("relay_dropped_packets_total{reason=\"malformed\"}", 0.0),
        ("relay_error_responses_total{code=\"401\"}", 2.0),
        (
            "relay_traffic_bytes_total{direction=\"up\",path=\"forced\",transport=\"tls\"}",
            3000.0,
        ),
        (
            "relay_traffic_packets_total{direction=\"down\",path=\"other\",transport=\"udp\"}",
            21.0,
        ),
        ("relay_allocations{transport=\"tcp\"}", 3.0),
        ("relay_allocations_ended_total{why=\"expired\"}", 3.0),
        ("relay_ports_in_use", 3.0),
        ("relay_ports_limit", 200.0),
        ("relay_log_lines_lost_total", 5.0),
        ("relay_log_lines_left_out_total", 6.0),
        ("relay_certificate_expiry_timestamp_seconds", 1_800_000_000.0),
        ("relay_certificate_updates_total{outcome=\"failure\"}", 0.0),
        ("process_start_time_seconds", 1_700_000_000.0),
    ] {
        assert_eq!(value(&text, series), expected, "{series}");
    }
}

#[tokio::test]
async fn a_failed_reload_is_seen_until_one_succeeds() {
    let admin = admin();
    assert_eq!(
        value(&scrape(&admin.router).await, "relay_config_last_reload_successful"),
        1.0
    );
    admin.process.reloaded(UnixTime(1_700_000_100), ReloadOutcome::Failure);
    let text = scrape(&admin.router).await;
    assert_eq!(value(&text, "relay_config_last_reload_successful"), 0.0);
    assert_eq!(value(&text, "relay_config_reloads_total{outcome=\"failure\"}"), 1.0);
    assert_eq!(value(&text, "relay_config_loaded_timestamp_seconds"), 1_700_000_000.0);
    admin.process.reloaded(UnixTime(1_700_000_200), ReloadOutcome::Success);
    let text = scrape(&admin.router).await;
    assert_eq!(value(&text, "relay_config_last_reload_successful"), 1.0);
    assert_eq!(value(&text, "relay_config_loaded_timestamp_seconds"), 1_700_000_200.0);
}

#[tokio::test]
async fn the_table_in_the_operations_guide_lists_exactly_the_metrics_there_are() {
    let text = scrape(&admin().router).await;
    let guide = include_str!("../../docs/operations.md");
    let served = families(&text);
    let listed = guide
        .lines()
        .filter_map(|line| {
            let cells = line.strip_prefix("| `")?.split('|').map(str::trim).collect::<Vec<_>>();
            let name = cells[0].strip_suffix('`')?;
            let is_metric = name.starts_with("relay_") || name.starts_with("process_");
            let labels = cells[2]
                .split(',')
                .map(|label| label.trim().trim_matches('`').to_owned());
            is_metric.then(|| {
                (
                    name.to_owned(),
                    (
                        cells[1].to_owned(),
                        labels.filter(|l| !l.is_empty()).collect::<Vec<_>>(),
                    ),
                )
            })
        })
        .collect::<BTreeMap<_, _>>();
    for (name, family) in &served {
        assert_eq!(listed.get(name), Some(family), "{name} in docs/operations.md");
    }
    for name in listed.keys() {
        assert!(
            served.contains_key(name),
            "docs/operations.md lists {name}, which is not served"
        );
    }
}

/// What the first cells of the table in this section of the operations guide name.
fn listed(section: &str) -> BTreeSet<&'static str> {
    let guide = include_str!("../../docs/operations.md");
    let (_, section) = guide.split_once(&format!("\n### {section}\n")).expect("section");
    let section = section.split("\n##").next().expect("the section");
    let cells = section
        .lines()
        .filter_map(|line| Some(line.strip_prefix("| `")?.split_once('`')?.0));
    cells.collect()
}

#[test]
fn the_runbook_has_every_drop_reason_and_no_other() {
    let known = DropReason::ALL.iter().map(|reason| reason.as_str());
    assert_eq!(listed("Drop reasons"), known.collect());
}

#[test]
fn the_runbook_has_every_reason_of_a_refusal_with_its_code_and_no_other() {
    let known = RefusalReason::ALL.iter().map(|reason| reason.as_str());
    assert_eq!(listed("Refusals"), known.collect());
    let guide = include_str!("../../docs/operations.md");
    for reason in RefusalReason::ALL {
        let code = match reason.code() {
            0 => "none".to_owned(),
            code => code.to_string(),
        };
        let row = format!("\n| `{reason}` | {code} | ");
        assert!(guide.contains(&row), "{row}");
    }
}

/// Type and label names of each family.
fn families(text: &str) -> BTreeMap<String, (String, Vec<String>)> {
    let mut families = BTreeMap::new();
    let mut lines = text.lines().peekable();
    while let Some(line) = lines.next() {
        let Some((name, kind)) = line.strip_prefix("# TYPE ").and_then(|rest| rest.split_once(' ')) else {
            continue;
        };
        let sample = lines.peek().expect("a sample follows");
        let labels = sample
            .split_once('{')
            .map_or("", |(_, rest)| rest.split_once('}').expect("}").0);
        let labels = labels
            .split(',')
            .filter_map(|label| Some(label.split_once('=')?.0.to_owned()))
            .filter(|label| label != "le")
            .collect();
        families.insert(name.to_owned(), (kind.to_owned(), labels));
    }
    families
}

#[tokio::test]
async fn every_label_value_comes_from_a_closed_set() {
    let text = scrape(&admin().router).await;
    let version = env!("CARGO_PKG_VERSION");
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        let Some((_, labels)) = line.split_once('{') else {
            continue;
        };
        let labels = labels.split_once('}').expect("}").0;
        for label in labels.split(',') {
            let (name, value) = label.split_once('=').expect("=");
            let value = value.trim_matches('"');
            let word = value
                .bytes()
                .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_');
            assert!(
                !value.is_empty()
                    && (word || (name == "version" && value == version) || (name == "le" && is_number(value))),
                "{line}"
            );
        }
    }
}

fn is_number(text: &str) -> bool {
    text == "+Inf" || text.parse::<f64>().is_ok()
}

// No per-user or per-address labels, and a text that promtool has nothing to say about
#[tokio::test]
async fn promtool_finds_no_fault_in_the_metrics() {
    let text = scrape(&admin().router).await;
    let promtool = Command::new("promtool")
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn();
    let mut promtool = promtool.unwrap_or_else(|error| panic!("promtool (sudo tests/install-packages): {error}"));
    promtool
        .stdin
        .take()
        .expect("stdin")
        .write_all(text.as_bytes())
        .expect("write");
    let output = promtool.wait_with_output().expect("promtool");
    let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    assert!(output.status.success() && said.trim().is_empty(), "{said}");
}

#[tokio::test]
async fn readiness_follows_the_phase_and_tells_the_capacity_while_liveness_does_not_care() {
    let admin = admin();
    let ready = async || {
        let (status, text) = call(&admin.router, Method::GET, "/readyz").await;
        (status, serde_json::from_str::<Value>(&text).expect("JSON"))
    };
    let (status, json) = ready().await;
    assert_eq!(
        (status, &json["phase"], &json["ready"]),
        (StatusCode::SERVICE_UNAVAILABLE, &"starting".into(), &false.into())
    );
    admin.health.enter(Phase::Serving);
    admin.shards[0].allocations[0].set(4);
    admin.ports.used[0].set(4);
    let (status, json) = ready().await;
    assert_eq!(status, StatusCode::OK);
    assert_eq!(json["reasons"], serde_json::json!([]));
    assert_eq!(json["allocations"], 4);
    assert_eq!(json["allocations_limit"], 1000);
    assert_eq!(json["relay_ports_free"], 196);
    admin.health.enter(Phase::Stopping);
    assert_eq!(ready().await.0, StatusCode::SERVICE_UNAVAILABLE);
    let (status, text) = call(&admin.router, Method::GET, "/healthz").await;
    assert_eq!(
        (status, text.as_str()),
        (StatusCode::OK, r#"{"alive":true,"slowest_heartbeat_ms":3}"#)
    );
}

#[tokio::test]
async fn nothing_else_is_served_there_and_nothing_can_be_changed() {
    let admin = admin();
    for (method, path, status) in [
        (Method::GET, "/", StatusCode::NOT_FOUND),
        (Method::GET, "/turn", StatusCode::NOT_FOUND),
        (Method::POST, "/v1/ice-servers", StatusCode::NOT_FOUND),
        (Method::POST, "/metrics", StatusCode::METHOD_NOT_ALLOWED),
        (Method::DELETE, "/readyz", StatusCode::METHOD_NOT_ALLOWED),
    ] {
        assert_eq!(call(&admin.router, method, path).await.0, status, "{path}");
    }
}

/// DNS rebinding: a page whose name leads here is told apart by that name.
#[tokio::test]
async fn whoever_asks_for_another_host_is_told_whether_all_is_well_and_nothing_else() {
    let admin = admin();
    admin.health.enter(Phase::Serving);
    for host in ["localhost", "127.0.0.1:13478", "[::1]:13478", "relay.internal"] {
        let (status, text) = call_for(&admin.router, Method::GET, "/metrics", host).await;
        assert_eq!(status, StatusCode::OK, "{host}: {text}");
    }
    for host in [
        "evil.example",
        "evil.example:13478",
        "192.0.2.1",
        "127.0.0.1.evil.example",
        "",
    ] {
        for path in ["/metrics", "/", "/turn", "/v1/ice-servers", "/healthz/", "/metrics/"] {
            let (status, text) = call_for(&admin.router, Method::GET, path, host).await;
            assert_eq!(status, StatusCode::MISDIRECTED_REQUEST, "{host} {path}");
            assert!(!text.contains("relay_") && text.contains("admin.hosts"), "{text}");
        }
        let (status, text) = call_for(&admin.router, Method::GET, "/healthz", host).await;
        assert_eq!((status, text.as_str()), (StatusCode::OK, r#"{"alive":true}"#), "{host}");
        let (status, text) = call_for(&admin.router, Method::GET, "/readyz", host).await;
        assert_eq!((status, text.as_str()), (StatusCode::OK, r#"{"ready":true}"#), "{host}");
    }
    assert_eq!(admin.counters.refused(AdminRefusal::Host), 30);
    admin.health.enter(Phase::Stopping);
    let (status, text) = call_for(&admin.router, Method::GET, "/readyz", "evil.example").await;
    assert_eq!(
        (status, text.as_str()),
        (StatusCode::SERVICE_UNAVAILABLE, r#"{"ready":false}"#)
    );
}

#[tokio::test]
async fn health_and_metrics_are_answered_however_many_hold_the_listener_busy() {
    const PATIENCE: Duration = Duration::from_secs(20);
    const IDLE: usize = 500;
    let admin = admin();
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address");
    let (_stop, stopping) = watch::channel(false);
    tokio::spawn(http_server::serve(
        listener,
        admin.router,
        Arc::clone(&admin.counters),
        stopping,
    ));
    let mut idle = Vec::new();
    for n in 0..IDLE {
        let mut stream = TcpStream::connect(address).await.expect("a connection");
        // Some have begun a request.
        if n % 2 == 0 {
            stream
                .write_all(b"GET /metrics HTTP/1.1\r\nHost: loc")
                .await
                .expect("a beginning");
        }
        idle.push(stream);
    }
    for path in ["/healthz", "/readyz", "/metrics"] {
        let ask = async {
            let mut stream = TcpStream::connect(address).await.expect("a connection");
            let request = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
            stream.write_all(request.as_bytes()).await.expect("a request");
            let mut answer = String::new();
            stream.read_to_string(&mut answer).await.expect("an answer");
            answer
        };
        let answer = timeout(PATIENCE, ask)
            .await
            .unwrap_or_else(|_| panic!("waited {PATIENCE:?} for {path}"));
        assert!(answer.starts_with("HTTP/1.1 "), "{path}: {answer}");
    }
    let displaced = admin.counters.refused(AdminRefusal::Displaced);
    assert!(displaced >= (IDLE - 128) as u64, "{displaced}");
}
