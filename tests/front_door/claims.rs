//! What a web server behind us believes of the proxy in front of it comes from us alone.

use tokio::io::AsyncWriteExt;

use crate::recorder::Recorder;
use crate::support::*;

/// One for each kind: addresses, names, URLs, logins, certificates, files, as many spellings as servers know.
const CLAIMS: &[&str] = &[
    "Forwarded: for=FORGED",
    "X-Forwarded: FORGED",
    "X-Forwarded-For: FORGED",
    "x-forwarded-for: FORGED",
    "X-Forwarded-Host: FORGED",
    "X-Forwarded-Server: FORGED",
    "X-Forwarded-Proto: FORGED",
    "X-Forwarded-Port: FORGED",
    "X-Forwarded-Prefix: FORGED",
    "X-Forwarded-User: FORGED",
    "X-Forwarded-Client-Cert: FORGED",
    "X_Forwarded_For: FORGED",
    "X-Forwarded_For: FORGED",
    "X.Forwarded.For: FORGED",
    "X~Forwarded~For: FORGED",
    "X-Real-IP: FORGED",
    "X_Real_IP: FORGED",
    "X-Client-IP: FORGED",
    "Client-IP: FORGED",
    "True-Client-IP: FORGED",
    "CF-Connecting-IP: FORGED",
    "Fastly-Client-IP: FORGED",
    "X-Cluster-Client-IP: FORGED",
    "X-Originating-IP: FORGED",
    "X-Remote-Addr: FORGED",
    "X-ProxyUser-Ip: FORGED",
    "WL-Proxy-Client-IP: FORGED",
    "X-Azure-ClientIP: FORGED",
    "X-Envoy-External-Address: FORGED",
    "X-Original-URL: FORGED",
    "X-Original-Host: FORGED",
    "X-Rewrite-URL: FORGED",
    "X-Override-URL: FORGED",
    "X-Host: FORGED",
    "X-HTTP-Host-Override: FORGED",
    "X-Accel-Mapping: FORGED",
    "Proxy: FORGED",
    "Proxy-Authorization: FORGED",
    "Via: FORGED",
    "Remote-User: FORGED",
    "X-Remote-User: FORGED",
    "X-Auth-Request-Email: FORGED",
    "X-WebAuth-User: FORGED",
    "X-SSL-Client-Verify: FORGED",
    "X-Client-Cert: FORGED",
    "Client-Cert: FORGED",
    "X-MS-Client-Principal-Name: FORGED",
];

/// Sends it on a connection of its own, and waits for the end.
async fn ask(door: &Door, request: &str) -> String {
    let mut client = door.connect_tls(&[b"http/1.1"]).await.unwrap();
    client.write_all(request.as_bytes()).await.unwrap();
    String::from_utf8(until_closed(&mut client).await).unwrap()
}

//= XPORT-20
#[tokio::test]
async fn no_claim_about_the_client_or_its_request_reaches_the_web_server_in_a_header() {
    let web = Recorder::start().await;
    let door = Door::before(limits(), &web.settings);
    for claim in CLAIMS {
        let name = claim.split(':').next().unwrap();
        for more in [
            "Connection: close".to_owned(),
            format!("Connection: close, {name}, X-Forwarded-Proto"),
        ] {
            let answer = ask(
                &door,
                &format!("GET /page HTTP/1.1\r\nHost: relay.test\r\n{claim}\r\nX-Mine: kept\r\n{more}\r\n\r\n"),
            )
            .await;
            assert!(answer.starts_with("HTTP/1.1 200 "), "{claim}: {answer}");
            let seen = web.take();
            assert!(!seen.contains("FORGED"), "{claim}: {seen}");
            let seen = seen.to_lowercase();
            for told in [
                "x-forwarded-for: 127.0.0.1",
                "x-forwarded-host: relay.test",
                "x-forwarded-proto: https",
                "x-mine: kept",
            ] {
                assert_eq!(seen.matches(told).count(), 1, "{claim}: {told} in {seen}");
            }
            assert_eq!(seen.matches("x-forwarded-").count(), 3, "{claim}: {seen}");
        }
    }
}

/// Servers may merge them with the headers (RFC 9110 §6.5.1 leaves a proxy free to drop them).
//= XPORT-20
#[tokio::test]
async fn no_trailer_reaches_the_web_server_announced_or_not() {
    let web = Recorder::start().await;
    let door = Door::before(limits(), &web.settings);
    for claim in CLAIMS
        .iter()
        .chain(&["Content-Length: 7\r\nX-Mine: FORGED", "Host: FORGED"])
    {
        for announced in ["", "Trailer: X-Forwarded-For, X-Mine, Host\r\nTE: trailers\r\n"] {
            let answer = ask(
                &door,
                &format!(
                    "POST /up HTTP/1.1\r\nHost: relay.test\r\nConnection: close\r\nContent-Type: text/plain\r\n\
                     {announced}Transfer-Encoding: chunked\r\n\r\n4\r\nbody\r\n0\r\n{claim}\r\n\r\n"
                ),
            )
            .await;
            assert!(answer.starts_with("HTTP/1.1 200 "), "{claim}: {answer}");
            let seen = web.take();
            assert!(seen.contains("4\r\nbody\r\n0\r\n\r\n"), "{claim}: {seen}");
            assert!(
                !seen.contains("FORGED") && !seen.to_lowercase().contains("trailer"),
                "{claim}: {seen}"
            );
        }
    }
}

//= XPORT-20
#[tokio::test]
async fn a_request_whose_target_is_in_doubt_is_not_passed_on() {
    let web = Recorder::start().await;
    let door = Door::before(limits(), &web.settings);
    for head in [
        "GET http://user:secret@relay.test/page HTTP/1.1\r\nHost: relay.test",
        "GET /page HTTP/1.1\r\nHost: user@relay.test",
        "GET /page HTTP/1.1\r\nHost: relay.test, other.test",
        "GET /page HTTP/1.1\r\nHost: relay.test/other",
        "GET /page HTTP/1.1\r\nHost:",
    ] {
        let answer = ask(&door, &format!("{head}\r\nConnection: close\r\n\r\n")).await;
        assert!(answer.starts_with("HTTP/1.1 400 "), "{head}: {answer}");
        assert_eq!(web.seen(), "", "{head}");
    }
    // The name in the target goes before that in Host (RFC 9112 §3.2.2).
    let answer = ask(
        &door,
        "GET http://one.test/page HTTP/1.1\r\nHost: two.test\r\nConnection: close\r\n\r\n",
    )
    .await;
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    let seen = web.take().to_lowercase();
    assert!(
        seen.starts_with("get /page http/1.1\r\n")
            && seen.contains("\r\nhost: one.test\r\n")
            && !seen.contains("two.test"),
        "{seen}"
    );
}
