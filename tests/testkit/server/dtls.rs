//! A server of shards with DTLS, and clients for it: the counterpart of `TestServer`.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use rcgen::{CertificateParams, KeyPair};
use relay::net::dtls::{DtlsContext, Identity, SharedContext};
use relay::net::udp::UdpSocket;
use relay::shard::{DtlsConfig, Listener, ShardConfig, Shards};
use relay::turn::{Config, Shared};

use crate::{Client, Messages, Pipe, TestServer, UDP, turn_config};
use relay_testkit::dtls_client::DtlsClient;

pub fn context(name: &str) -> DtlsContext {
    let key = KeyPair::generate().unwrap();
    let certificate = CertificateParams::new([name.to_owned()]).unwrap();
    let certificate = certificate.self_signed(&key).unwrap();
    let identity = Identity {
        chain: &[&certificate.der()[..]],
        private_key: &key.serialize_der(),
    };
    DtlsContext::new(&[identity], |_| 0).unwrap()
}

fn contexts() -> SharedContext {
    context("relay.test").into_shared()
}

pub fn config(change: impl FnOnce(&mut DtlsConfig)) -> DtlsConfig {
    let mut config = DtlsConfig {
        quick_retransmission: true,
        ..DtlsConfig::new(contexts())
    };
    change(&mut config);
    config
}

/// One worker with UDP and DTLS on one socket.
pub fn start(dtls: DtlsConfig) -> TestServer {
    start_with(
        ShardConfig {
            dtls: Some(dtls),
            ..ShardConfig::default()
        },
        true,
    )
}

pub fn start_with(config: ShardConfig, plain: bool) -> TestServer {
    start_under(config, plain, turn_config())
}

pub fn start_under(config: ShardConfig, plain: bool, turn: Config) -> TestServer {
    let socket = UdpSocket::bind("127.0.0.1:0".parse().unwrap(), &UDP).unwrap();
    let udp = socket.local_addr();
    let listener = Listener {
        socket,
        plain,
        dtls: true,
        http3: false,
    };
    let shared = Arc::new(Shared::new([7; 32]));
    let shards = Shards::start(config, Arc::new(turn), shared, vec![vec![listener]]).unwrap();
    TestServer { shards, udp }
}

/// An association shared by the client and the test.
#[derive(Clone)]
struct Hand(Rc<RefCell<DtlsClient>>);

impl Messages for Hand {
    fn send(&mut self, message: &[u8]) {
        self.0.borrow_mut().send(message).unwrap();
    }

    fn recv(&mut self, timeout: Duration) -> Option<Vec<u8>> {
        let mut buffer = vec![0; 65_536];
        let len = self.0.borrow_mut().receive(&mut buffer, timeout).ok()?;
        buffer.truncate(len);
        Some(buffer)
    }
}

pub fn over(association: DtlsClient) -> (Client, Rc<RefCell<DtlsClient>>) {
    let association = Rc::new(RefCell::new(association));
    (
        Client::new(Pipe::Messages(Box::new(Hand(Rc::clone(&association))))),
        association,
    )
}

pub fn client(server: &TestServer) -> Client {
    over(DtlsClient::connect(server.udp)).0
}
