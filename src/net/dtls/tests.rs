//! Tests associations against a real client, OpenSSL's, in memory and datagram by datagram.

use openssl::ssl::{Ssl, SslContextBuilder, SslMethod, SslOptions, SslVerifyMode};
use rcgen::{CertificateParams, KeyPair, PKCS_ECDSA_P256_SHA256};

use super::*;
use relay_proto::base::address::Transport;

/// A self-signed certificate, in DER with its key.
fn certificate(name: &str) -> (Vec<u8>, Vec<u8>) {
    let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap();
    let certificate = CertificateParams::new([name.to_owned()])
        .unwrap()
        .self_signed(&key)
        .unwrap();
    (certificate.der().to_vec(), key.serialize_der())
}

fn context(names: &[&str]) -> DtlsContext {
    let made: Vec<_> = names.iter().map(|name| certificate(name)).collect();
    let chains: Vec<[&[u8]; 1]> = made.iter().map(|(chain, _)| [&chain[..]]).collect();
    let identities: Vec<_> = made
        .iter()
        .zip(&chains)
        .map(|((_, private_key), chain)| Identity { chain, private_key })
        .collect();
    let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
    let choose = move |host: Option<&str>| names.iter().position(|name| Some(&name[..]) == host).unwrap_or(0);
    DtlsContext::new(&identities, choose).unwrap()
}

fn shared(names: &[&str]) -> SharedContext {
    context(names).into_shared()
}

fn endpoint() -> Endpoint {
    Endpoint::new(shared(&["relay.test"]), &[7; 32], u32::MAX)
        .unwrap()
        .with_quick_retransmission()
}

fn five_tuple(n: u32) -> FiveTuple {
    FiveTuple {
        client: (std::net::Ipv4Addr::from_bits(0x0A00_0000 + n), 7000).into(),
        server: "192.0.2.9:443".parse().unwrap(),
        transport: Transport::Dtls,
    }
}

/// OpenSSL's client and its outgoing datagrams.
struct Client {
    stream: SslStream<Pipe>,
    wire: Rc<RefCell<Wire>>,
}

impl Client {
    fn new() -> Self {
        Self::with(|_| {}, |_| {})
    }

    fn with(context: impl Fn(&mut SslContextBuilder), ssl: impl Fn(&mut Ssl)) -> Self {
        let mut builder = SslContextBuilder::new(SslMethod::dtls_client()).unwrap();
        builder.set_verify(SslVerifyMode::NONE);
        builder.set_options(SslOptions::NO_QUERY_MTU);
        context(&mut builder);
        let mut made = Ssl::new(&builder.build()).unwrap();
        made.set_mtu(1200).unwrap();
        sys::set_timer(&made, sys::soon);
        ssl(&mut made);
        let wire = Rc::<RefCell<Wire>>::default();
        let stream = SslStream::new(made, Pipe(Rc::clone(&wire))).unwrap();
        Self { stream, wire }
    }

    /// Continues the handshake; `true` once complete.
    fn step(&mut self, datagram: Option<&[u8]>) -> bool {
        if let Some(datagram) = datagram {
            self.wire.borrow_mut().put(datagram);
        }
        match self.stream.connect() {
            Ok(()) => true,
            Err(error) if wants_more(error.code()) => false,
            Err(error) => panic!("the client gives up: {error}"),
        }
    }

    fn sent(&mut self) -> Vec<Vec<u8>> {
        let mut all = Vec::new();
        self.wire.borrow_mut().drain(|datagram| all.push(datagram.to_vec()));
        all
    }
}

fn sent(endpoint: &Endpoint) -> Vec<Vec<u8>> {
    let mut all = Vec::new();
    endpoint.drain(|datagram| all.push(datagram.to_vec()));
    all
}

/// A server for one client, as in a shard: unknown clients go to the endpoint, others to the
/// association.
struct Server {
    endpoint: Endpoint,
    association: Option<Association>,
    established: bool,
}

impl Server {
    fn new(endpoint: Endpoint) -> Self {
        Self {
            endpoint,
            association: None,
            established: false,
        }
    }

    fn take(&mut self, datagram: &[u8]) -> Result<(), DtlsError> {
        let Some(association) = &mut self.association else {
            let Some(hello) = client_hello(datagram) else {
                return Ok(());
            };
            if let Listened::Accepted(mut association) =
                self.endpoint.listen(Instant::ZERO, &five_tuple(1), hello.record)
            {
                self.established = association.handshake(None)?;
                if !hello.rest.is_empty() {
                    self.established = association.handshake(Some(hello.rest))?;
                }
                self.association = Some(association);
            }
            return Ok(());
        };
        if self.established {
            association.receive(datagram);
            association.next_message(&mut [0; MAX_PLAINTEXT])?;
        } else {
            self.established = association.handshake(Some(datagram))?;
        }
        Ok(())
    }
}

/// Passes datagrams between the two until both are done. `lose` says which are lost: whether of the
/// client or the server, and its number, from 0.
fn shake_hands(client: &mut Client, server: &mut Server, mut lose: impl FnMut(bool, usize) -> bool) -> [usize; 2] {
    let mut counts = [0, 0];
    let mut done = client.step(None);
    // More rounds than both ends need to retransmit twice.
    for _ in 0..2_000_000 {
        for datagram in client.sent() {
            counts[0] += 1;
            if !lose(true, counts[0] - 1) {
                server.take(&datagram).unwrap();
            }
        }
        if let Some(association) = &mut server.association
            && association.timeout().is_some_and(|left| left.is_zero())
        {
            association.handle_timeout().unwrap();
        }
        for datagram in sent(&server.endpoint) {
            counts[1] += 1;
            if !lose(false, counts[1] - 1) {
                done = client.step(Some(&datagram));
            }
        }
        if done && server.established {
            return counts;
        }
        done = client.step(None) || done;
        std::thread::yield_now();
    }
    panic!("no handshake after {counts:?} datagrams");
}

fn connected() -> (Client, Server) {
    let (mut client, mut server) = (Client::new(), Server::new(endpoint()));
    shake_hands(&mut client, &mut server, |_, _| false);
    // On a busy machine a flight may have been sent twice.
    for stray in client.sent() {
        let association = server.association.as_mut().unwrap();
        association.receive(&stray);
        assert_eq!(association.next_message(&mut [0; MAX_PLAINTEXT]), Ok(None));
    }
    sent(&server.endpoint);
    (client, server)
}

//= XPORT-14
#[test]
fn a_client_without_a_cookie_is_asked_for_one_and_not_remembered() {
    let mut endpoint = endpoint();
    let mut client = Client::new();
    client.step(None);
    let hello = client.sent().remove(0);
    for n in 0..3 {
        let outcome = endpoint.listen(Instant::ZERO, &five_tuple(n), &hello);
        assert!(matches!(outcome, Listened::Asked));
        let answer = sent(&endpoint);
        assert_eq!(answer.len(), 1);
        assert!(
            answer[0].len() <= 60 && answer[0].len() < hello.len(),
            "no amplification"
        );
        // HelloVerifyRequest, in a handshake record.
        assert_eq!((answer[0][0], answer[0][13]), (22, 3));
    }
}

//= XPORT-14
#[test]
fn a_cookie_is_taken_from_the_client_it_was_given_to_and_from_nobody_else() {
    let mut endpoint = endpoint();
    let mut client = Client::new();
    client.step(None);
    let first = client.sent().remove(0);
    let _ = endpoint.listen(Instant::ZERO, &five_tuple(1), &first);
    client.step(Some(&sent(&endpoint)[0]));
    let second = client.sent().remove(0);
    let listen = |endpoint: &mut Endpoint, after: u64, n| {
        endpoint.listen(Instant::ZERO + Duration::from_secs(after), &five_tuple(n), &second)
    };
    assert!(
        matches!(listen(&mut endpoint, 0, 2), Listened::Asked),
        "another address"
    );
    assert!(matches!(listen(&mut endpoint, 120, 1), Listened::Asked), "too late");
    assert!(matches!(listen(&mut endpoint, 119, 1), Listened::Accepted(_)));
}

//= XPORT-16
#[test]
fn every_message_is_a_record_in_a_datagram_of_its_own_both_ways() {
    let (mut client, mut server) = connected();
    let association = server.association.as_mut().unwrap();
    let mut message = vec![0; MAX_PLAINTEXT];
    for len in [1, 4, 20, 1200, 1435] {
        let data = vec![len as u8; len];
        client.stream.ssl_write(&data).unwrap();
        let datagrams = client.sent();
        assert_eq!(datagrams.len(), 1);
        association.receive(&datagrams[0]);
        assert_eq!(association.next_message(&mut message), Ok(Some(len)));
        assert_eq!(message[..len], data);
        assert_eq!(association.next_message(&mut message), Ok(None));
        association.seal(&data).unwrap();
        let datagrams = sent(&server.endpoint);
        assert_eq!(datagrams.len(), 1);
        assert!(datagrams[0].len() <= len + RECORD_OVERHEAD);
        client.wire.borrow_mut().put(&datagrams[0]);
        assert_eq!(client.stream.ssl_read(&mut message).unwrap(), len);
    }
}

#[test]
fn records_that_come_in_one_datagram_are_messages_of_their_own() {
    let (mut client, mut server) = connected();
    for data in [b"one", b"two"] {
        client.stream.ssl_write(data).unwrap();
    }
    let association = server.association.as_mut().unwrap();
    association.receive(&client.sent().concat());
    let mut message = vec![0; MAX_PLAINTEXT];
    for data in [b"one", b"two"] {
        assert_eq!(association.next_message(&mut message), Ok(Some(3)));
        assert_eq!(&message[..3], data);
    }
    assert_eq!(association.next_message(&mut message), Ok(None));
}

#[test]
fn a_record_that_was_changed_repeated_or_made_up_is_dropped_and_the_next_one_is_taken() {
    let (mut client, mut server) = connected();
    let association = server.association.as_mut().unwrap();
    let mut message = vec![0; MAX_PLAINTEXT];
    client.stream.ssl_write(b"good").unwrap();
    let good = client.sent().remove(0);
    let mut changed = good.clone();
    *changed.last_mut().unwrap() ^= 1;
    for bad in [
        &changed[..],
        &good[..good.len() - 1],
        &[23; 60],
        &[22, 254, 253, 0, 0],
        &[21; 13],
        &[],
    ] {
        association.receive(bad);
        assert_eq!(association.next_message(&mut message), Ok(None));
    }
    association.receive(&good);
    assert_eq!(association.next_message(&mut message), Ok(Some(4)));
    association.receive(&good);
    assert_eq!(association.next_message(&mut message), Ok(None), "a replay");
    assert_eq!(sent(&server.endpoint).len(), 0);
}

//= XPORT-15
#[test]
fn a_handshake_completes_whichever_datagram_is_lost() {
    let lossless = shake_hands(&mut Client::new(), &mut Server::new(endpoint()), |_, _| false);
    for from_client in [true, false] {
        for lost in 0..lossless[usize::from(!from_client)] {
            let mut hit = false;
            shake_hands(&mut Client::new(), &mut Server::new(endpoint()), |whose, n| {
                let lose = (whose, n) == (from_client, lost);
                hit |= lose;
                lose
            });
            assert!(hit, "datagram {lost} of {lossless:?}");
        }
    }
}

//= XPORT-15
#[test]
fn a_client_hello_in_many_fragments_completes_in_any_cut() {
    // So many names that the ClientHello exceeds one datagram of this size.
    let protocols: Vec<u8> = (0..40).flat_map(|_| *b"\x09stun.turn").collect();
    for mtu in [256, 300, 500] {
        let mut client = Client::with(
            |context| context.set_alpn_protos(&protocols).unwrap(),
            |ssl| ssl.set_mtu(mtu).unwrap(),
        );
        let mut server = Server::new(endpoint());
        let counts = shake_hands(&mut client, &mut server, |_, _| false);
        assert!(counts[0] > 4, "MTU {mtu}: {counts:?}");
    }
}

//= XPORT-16
#[test]
fn close_notify_ends_an_association_and_is_answered() {
    let (mut client, mut server) = connected();
    let association = server.association.as_mut().unwrap();
    let _ = client.stream.shutdown().unwrap();
    association.receive(&client.sent()[0]);
    assert_eq!(
        association.next_message(&mut [0; MAX_PLAINTEXT]),
        Err(DtlsError::Closed)
    );
    association.close();
    association.close();
    let answer = sent(&server.endpoint);
    assert_eq!(answer.len(), 1);
    client.wire.borrow_mut().put(&answer[0]);
    assert!(client.stream.get_shutdown().contains(ShutdownState::SENT));
    let _ = client.stream.shutdown();
    assert!(client.stream.get_shutdown().contains(ShutdownState::RECEIVED));
}

//= XPORT-11
#[test]
fn alpn_is_honoured_and_what_is_not_ours_refused() {
    for (offered, selected) in [
        (&b"\x09stun.turn"[..], &b"stun.turn"[..]),
        (b"\x02h2\x12stun.nat-discovery", b"stun.nat-discovery"),
    ] {
        let mut client = Client::with(|context| context.set_alpn_protos(offered).unwrap(), |_| {});
        shake_hands(&mut client, &mut Server::new(endpoint()), |_, _| false);
        assert_eq!(client.stream.ssl().selected_alpn_protocol(), Some(selected));
    }
    let mut client = Client::with(|context| context.set_alpn_protos(b"\x02h2").unwrap(), |_| {});
    let mut server = Server::new(endpoint());
    client.step(None);
    let hello = client.sent().remove(0);
    server.take(&hello).unwrap();
    client.step(Some(&sent(&server.endpoint)[0]));
    let hello = client.sent().remove(0);
    assert_eq!(server.take(&hello), Err(DtlsError::Failed));
    // A fatal alert: no_application_protocol.
    let alert = sent(&server.endpoint).remove(0);
    assert_eq!((alert[0], alert[13], alert[14]), (21, 2, 120));
}

#[test]
fn dtls_1_0_is_refused() {
    use openssl::ssl::SslVersion;
    let old = Some(SslVersion::DTLS1);
    let mut client = Client::with(
        |context| {
            context.set_security_level(0);
            context.set_min_proto_version(old).unwrap();
            context.set_max_proto_version(old).unwrap();
        },
        |_| {},
    );
    let mut server = Server::new(endpoint());
    client.step(None);
    server.take(&client.sent().remove(0)).unwrap();
    client.step(Some(&sent(&server.endpoint)[0]));
    assert_eq!(server.take(&client.sent().remove(0)), Err(DtlsError::Failed));
}

#[test]
fn the_certificate_is_that_of_the_name_asked_for_and_a_swapped_one_is_served_at_once() {
    let contexts = shared(&["one.test", "two.test"]);
    let served = |host: Option<&str>, endpoint: Endpoint| {
        let mut client = Client::with(
            |_| {},
            |ssl| host.into_iter().for_each(|host| ssl.set_hostname(host).unwrap()),
        );
        let mut server = Server::new(endpoint);
        shake_hands(&mut client, &mut server, |_, _| false);
        let certificate = client.stream.ssl().peer_certificate().unwrap();
        let names = certificate.subject_alt_names().unwrap();
        (names[0].dnsname().unwrap().to_owned(), server.endpoint)
    };
    let mut endpoint = Endpoint::new(Arc::clone(&contexts), &[7; 32], u32::MAX).unwrap();
    for (host, name) in [
        (None, "one.test"),
        (Some("one.test"), "one.test"),
        (Some("two.test"), "two.test"),
        (Some("three.test"), "one.test"),
    ] {
        let (served, back) = served(host, endpoint);
        assert_eq!(served, name, "{host:?}");
        endpoint = back;
    }
    contexts.store(Arc::new(context(&["new.test"])));
    assert_eq!(served(None, endpoint).0, "new.test");
}
