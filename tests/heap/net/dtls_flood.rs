//! Strangers leave nothing behind over DTLS either. The kernel is asked how much memory the process has: OpenSSL does not
//! allocate by way of Rust. `FLOOD_REQUESTS=1000000` makes it as large as one likes.

use std::net::Ipv4Addr;

use openssl::ssl::{Ssl, SslContextBuilder, SslMethod, SslStream};
use rcgen::{CertificateParams, KeyPair};
use relay_net::dtls::{DtlsContext, Endpoint, Identity, Listened};
use relay_proto::base::address::{FiveTuple, Transport};
use relay_proto::base::time::Instant;
use relay_testkit::heap::alone;

/// Keeps what is sent.
#[derive(Default)]
struct Sent(Vec<u8>);

impl std::io::Read for Sent {
    fn read(&mut self, _: &mut [u8]) -> std::io::Result<usize> {
        Err(std::io::ErrorKind::WouldBlock.into())
    }
}

impl std::io::Write for Sent {
    fn write(&mut self, buf: &[u8]) -> std::io::Result<usize> {
        self.0.extend_from_slice(buf);
        Ok(buf.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// What a real client begins with.
fn client_hello() -> Vec<u8> {
    let context = SslContextBuilder::new(SslMethod::dtls_client()).unwrap().build();
    let mut stream = SslStream::new(Ssl::new(&context).unwrap(), Sent::default()).unwrap();
    stream.connect().unwrap_err();
    stream.get_ref().0.clone()
}

fn endpoint() -> Endpoint {
    let key = KeyPair::generate().unwrap();
    let certificate = CertificateParams::new(["relay.test".to_owned()]).unwrap();
    let certificate = certificate.self_signed(&key).unwrap();
    let identity = Identity {
        chain: &[&certificate.der()[..]],
        private_key: &key.serialize_der(),
    };
    let context = DtlsContext::new(&[identity], |_| 0).unwrap();
    Endpoint::new(context.into_shared(), &[7; 32], u32::MAX).unwrap()
}

fn resident_bytes() -> u64 {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
    statm.split(' ').nth(1).unwrap().parse::<u64>().unwrap() * 4096
}

//= XPORT-14
#[test]
fn a_flood_of_spoofed_hellos_grows_no_memory_and_amplifies_nothing() {
    let _alone = alone();
    let requests: u32 = std::env::var("FLOOD_REQUESTS").map_or(20_000, |text| text.parse().unwrap());
    let mut endpoint = endpoint();
    let bare = client_hello();
    // With a cookie that somebody made up: it is as long as ours, and its length goes into every length around it.
    let mut forged = bare.clone();
    let at = 13 + 12 + 2 + 32 + 1 + usize::from(bare[13 + 12 + 2 + 32]);
    assert_eq!(bare[at], 0, "the client has no cookie yet");
    forged[at] = 16;
    forged.splice(at + 1..at + 1, [0x5A; 16]);
    for length in [12, 16, 24] {
        forged[length] += 16;
    }
    let mut flood = |from: u32, to: u32| {
        for n in from..to {
            let five_tuple = FiveTuple {
                client: (Ipv4Addr::from_bits(0x0B00_0000 | n), 1024 + (n % 60_000) as u16).into(),
                server: "192.0.2.9:443".parse().unwrap(),
                transport: Transport::Dtls,
            };
            let hello = if n % 2 == 0 { &bare } else { &forged };
            let outcome = endpoint.listen(Instant::ZERO, &five_tuple, hello);
            assert!(matches!(outcome, Listened::Asked), "{n}: {outcome:?}");
            assert_eq!(endpoint.drain(|answer| assert!(answer.len() < hello.len())), 1);
        }
    };
    flood(0, 1000);
    let before = resident_bytes();
    flood(1000, requests);
    let grown = resident_bytes().saturating_sub(before);
    assert!(grown < 1 << 20, "{grown} bytes after {requests} hellos");
}
