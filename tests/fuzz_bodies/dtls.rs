//! F14: what strangers and forgers send where DTLS is served. The first byte of an input says how far a client has come.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::io::{self, ErrorKind, Read, Write};
use std::rc::Rc;

use openssl::ssl::{Ssl, SslContextBuilder, SslMethod, SslOptions, SslStream, SslVerifyMode};
use relay::base::address::{FiveTuple, Transport};
use relay::base::time::Instant;
use relay::net::dtls::{
    Association, DtlsContext, Endpoint, Identity, Listened, MAX_PLAINTEXT, SharedContext, client_hello,
};

use super::Bytes;

/// Both directions of a client, in datagrams.
#[derive(Clone, Default)]
struct Wire(Rc<RefCell<[VecDeque<Vec<u8>>; 2]>>);

impl Wire {
    fn give(&self, datagram: &[u8]) {
        self.0.borrow_mut()[0].push_back(datagram.to_vec());
    }

    fn sent(&self) -> Option<Vec<u8>> {
        self.0.borrow_mut()[1].pop_front()
    }
}

impl Read for Wire {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let datagram = self.0.borrow_mut()[0].pop_front().ok_or(ErrorKind::WouldBlock)?;
        buf[..datagram.len()].copy_from_slice(&datagram);
        Ok(datagram.len())
    }
}

impl Write for Wire {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        self.0.borrow_mut()[1].push_back(buf.to_vec());
        Ok(buf.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn client() -> (SslStream<Wire>, Wire) {
    let mut context = SslContextBuilder::new(SslMethod::dtls_client()).expect("OpenSSL has DTLS");
    context.set_verify(SslVerifyMode::NONE);
    context.set_options(SslOptions::NO_QUERY_MTU);
    let mut ssl = Ssl::new(&context.build()).expect("a connection");
    ssl.set_mtu(1200).expect("an MTU");
    let wire = Wire::default();
    (SslStream::new(ssl, wire.clone()).expect("a stream"), wire)
}

thread_local!(static CONTEXT: SharedContext = context());

fn context() -> SharedContext {
    let key = rcgen::KeyPair::generate().expect("a key");
    let certificate = rcgen::CertificateParams::new(["relay.test".to_owned()]).expect("a name");
    let certificate = certificate.self_signed(&key).expect("a certificate");
    let identity = Identity {
        chain: &[&certificate.der()[..]],
        private_key: &key.serialize_der(),
    };
    DtlsContext::new(&[identity], |_| 0).expect("a context").into_shared()
}

fn endpoint() -> Endpoint {
    CONTEXT.with(|context| Endpoint::new(context.clone(), &[7; 32], u32::MAX).expect("memory"))
}

fn five_tuple() -> FiveTuple {
    FiveTuple {
        client: "192.0.2.1:7000".parse().expect("an address"),
        server: "192.0.2.9:443".parse().expect("an address"),
        transport: Transport::Dtls,
    }
}

fn listen(endpoint: &mut Endpoint, datagram: &[u8]) -> Option<Association> {
    let hello = client_hello(datagram)?;
    assert_eq!([hello.record, hello.rest].concat(), datagram);
    match endpoint.listen(Instant::ZERO, &five_tuple(), hello.record) {
        Listened::Accepted(association) => Some(association),
        Listened::Asked => {
            let mut longest = 0;
            assert_eq!(endpoint.drain(|answer| longest = answer.len()), 1);
            assert!(longest <= 60, "nothing to amplify with");
            None
        }
        Listened::Refused | Listened::Spent => {
            assert_eq!(endpoint.drain(|_| {}), 0);
            None
        }
    }
}

/// A client's ClientHello with a good cookie.
fn good_hello(endpoint: &mut Endpoint, client: &mut SslStream<Wire>, wire: &Wire) -> Vec<u8> {
    let _ = client.connect();
    let hello = wire.sent().expect("a ClientHello");
    assert!(listen_for_cookie(endpoint, &hello, wire).is_none());
    let _ = client.connect();
    wire.sent().expect("a ClientHello with its cookie")
}

fn listen_for_cookie(endpoint: &mut Endpoint, hello: &[u8], wire: &Wire) -> Option<Association> {
    let hello = client_hello(hello)?;
    let Listened::Asked = endpoint.listen(Instant::ZERO, &five_tuple(), hello.record) else {
        panic!("no cookie yet")
    };
    endpoint.drain(|answer| wire.give(answer));
    None
}

/// Changes `bytes` as the input says: where, and to what.
fn mutate(bytes: &mut Vec<u8>, input: &mut Bytes<'_>) {
    for _ in 0..input.byte() % 8 {
        let (at, change) = (usize::from(input.word()), input.byte());
        let len = bytes.len().max(1);
        if let Some(byte) = bytes.get_mut(at % len) {
            *byte ^= change;
        }
    }
    let cut = usize::from(input.byte());
    if cut > 0 && cut < bytes.len() {
        bytes.truncate(bytes.len() - cut);
    }
}

pub(crate) fn dtls(input: &[u8]) {
    let mut input = Bytes(input);
    match input.byte() % 3 {
        0 => assert!(listen(&mut endpoint(), input.0).is_none(), "a cookie was guessed"),
        1 => begin(&mut input),
        _ => forge(&mut input),
    }
}

/// A ClientHello with a good cookie, changed, and whatever else behind it.
fn begin(input: &mut Bytes<'_>) {
    let mut endpoint = endpoint();
    let (mut client, wire) = client();
    let mut hello = good_hello(&mut endpoint, &mut client, &wire);
    mutate(&mut hello, input);
    let Some(mut association) = listen(&mut endpoint, &hello) else {
        return;
    };
    let mut goes_on = association.handshake(None);
    endpoint.drain(|_| {});
    while goes_on == Ok(false) && !input.is_empty() {
        let len = usize::from(input.byte());
        goes_on = association.handshake(Some(input.take(len)));
        endpoint.drain(|_| {});
    }
    assert_ne!(goes_on, Ok(true), "nobody has finished a handshake");
}

/// Datagrams of a forger to an established association, and then one of the client's own.
fn forge(input: &mut Bytes<'_>) {
    let mut endpoint = endpoint();
    let (mut client, wire) = client();
    let hello = good_hello(&mut endpoint, &mut client, &wire);
    let mut association = listen(&mut endpoint, &hello).expect("a good cookie");
    let mut done = association.handshake(None).expect("a handshake");
    while !done || client.connect().is_err() {
        endpoint.drain(|datagram| wire.give(datagram));
        let _ = client.connect();
        while let Some(datagram) = wire.sent() {
            done = association.handshake(Some(&datagram)).expect("a handshake") || done;
        }
    }
    let mut message = vec![0; MAX_PLAINTEXT];
    client.ssl_write(b"genuine").expect("a record");
    let genuine = wire.sent().expect("a record");
    while !input.is_empty() {
        let forged = if input.byte().is_multiple_of(2) {
            let len = usize::from(input.byte());
            input.take(len).to_vec()
        } else {
            let mut record = genuine.clone();
            mutate(&mut record, input);
            record
        };
        if forged == genuine {
            continue;
        }
        association.receive(&forged);
        // The client's own record may be in it, with something behind.
        match association.next_message(&mut message) {
            Ok(None) => {}
            Ok(Some(len)) => return assert_eq!(message[..len], *b"genuine"),
            Err(error) => panic!("{error:?}: a forger has ended the association"),
        }
        endpoint.drain(|_| {});
    }
    association.receive(&genuine);
    assert_eq!(association.next_message(&mut message), Ok(Some(7)));
}
