//! DTLS handshakes with the libraries of clients: OpenSSL, GnuTLS and mbedTLS; pion's is in
//! `pion.rs`.

use std::net::SocketAddr;
use std::process::{Command, Stdio};

use crate::harness::Server;

/// The server names to try with every stack; empty: none.
const NAMES: [&str; 3] = ["", "relay.test", "elsewhere.test"];

/// The output of a shell command; `$1` is the address, `$2` its port, `$3` what else it needs.
fn shell(command: &str, server: SocketAddr, more: &str) -> String {
    let (ip, port) = (server.ip().to_string(), server.port().to_string());
    let output = Command::new("timeout")
        .args(["20", "bash", "-c", command, "bash", &ip, &port, more])
        .stdin(Stdio::null())
        .output()
        .expect("timeout and bash are there");
    let text = [output.stdout, output.stderr].concat();
    String::from_utf8_lossy(&text).into_owned()
}

#[test]
fn openssl_completes_a_handshake_that_acknowledges_no_server_name() {
    let server = Server::start();
    for name in NAMES {
        for mtu in ["", "-mtu 500"] {
            let asks = if name.is_empty() {
                format!("-noservername {mtu}")
            } else {
                format!("-servername {name} {mtu}")
            };
            let command = "sleep 0.3 | openssl s_client -dtls -connect $1:$2 -tlsextdebug -status -alpn stun.turn $3";
            let told = shell(command, server.tls, &asks);
            assert!(told.contains("Protocol  : DTLSv1.2"), "{asks}: {told}");
            assert!(told.contains("ALPN protocol: stun.turn"), "{asks}: {told}");
            let answered = |line: &&str| line.starts_with("TLS server extension");
            let extensions: Vec<&str> = told.lines().filter(answered).collect();
            assert!(
                !extensions.iter().any(|line| line.contains("\"server name\"")),
                "{asks}: {extensions:?}"
            );
            // Each answers one of the client's; none is empty where a parser may expect more.
            assert_eq!(extensions.len(), 4, "{asks}: {extensions:?}");
        }
    }
}

#[test]
fn gnutls_completes_a_handshake() {
    let server = Server::start();
    for name in NAMES {
        let asks = if name.is_empty() {
            "--disable-sni".to_owned()
        } else {
            format!("--sni-hostname {name} --mtu 500")
        };
        let told = shell("sleep 0.3 | gnutls-cli --udp --insecure -p $2 $1 $3", server.tls, &asks);
        assert!(told.contains("- Handshake was completed"), "{asks}: {told}");
    }
}

#[test]
fn mbedtls_completes_a_handshake_and_is_answered() {
    let server = Server::start();
    let program = server.path("mbedtls_client");
    let source = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/blackbox/mbedtls_client.c");
    let compiled = Command::new("cc")
        .args(["-o", &program.to_string_lossy(), source])
        .args(["-lmbedtls", "-lmbedx509", "-lmbedcrypto"])
        .output()
        .expect("a C compiler");
    let told = String::from_utf8_lossy(&compiled.stderr);
    assert!(
        compiled.status.success(),
        "libmbedtls-dev (sudo tests/install-packages): {told}"
    );
    for name in NAMES {
        let command = format!("{} $1 $2 $3", program.display());
        let told = shell(&command, server.tls, name);
        assert_eq!(told, "answer 0101\n", "{name:?}");
    }
}
