//! The kernel's limit: packets go from socket to socket with the system calls that the relay uses,
//! without any checks. No login, no permission, no deadline, no counter; every request gets the
//! response that the client expects.

mod stream;

use std::collections::HashMap;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::ops::Range;
use std::os::fd::AsFd as _;
use std::sync::Arc;
use std::time::Duration;

use relay::base::time::Instant;
use relay::net::udp::{Datagram, RecvBatch, SendBatch, UdpOptions, UdpSocket};
use relay::wire::attribute::AttributeType;
use relay::wire::channel_data;
use relay::wire::framing::{Framing, next_frame};
use relay::wire::message::{Class, Message, Method};
use relay::wire::writer::MessageWriter;
use rustix::buffer::spare_capacity;
use rustix::event::epoll;
use rustls::ServerConfig;

use self::stream::Stream;

/// The one channel that clients of `relay bench` bind.
const CHANNEL: u16 = 0x4000;
const BATCH: usize = 64;
const OPTIONS: UdpOptions = UdpOptions {
    receive_buffer: 4 << 20,
    send_buffer: 4 << 20,
    offload: true,
    errors: false,
    traffic_class: false,
};
/// Tokens of the listeners; sockets of clients have higher ones.
const UDP: u64 = 0;
const TCP: u64 = 1;
const TLS: u64 = 2;
const RELAYS: u64 = 1 << 20;
const STREAMS: u64 = 2 << 20;
/// The number of the UDP listener among the sending sockets.
const MAIN: u32 = 0;

struct Client {
    address: SocketAddr,
    relay: UdpSocket,
    peer: Option<SocketAddr>,
    stream: Option<Stream>,
}

struct Bare {
    udp: UdpSocket,
    /// The same socket, for responses.
    answers: std::net::UdpSocket,
    tcp: TcpListener,
    tls: TcpListener,
    tls_config: Arc<ServerConfig>,
    epoll: rustix::fd::OwnedFd,
    clients: Vec<Client>,
    by_address: HashMap<SocketAddr, usize>,
    recv: RecvBatch,
    send: SendBatch,
    outgoing: Vec<u8>,
}

/// How long the relay lets packets gather.
const PAUSE: Duration = Duration::from_micros(100);

/// Relays forever: UDP and TCP at `plain`, and TLS at `tls`. With `paused`, lets packets gather
/// before it receives them.
pub(crate) fn run(plain: SocketAddr, tls: SocketAddr, paused: bool) -> io::Result<()> {
    let udp = UdpSocket::bind(plain, &OPTIONS)?;
    let mut bare = Bare {
        answers: udp.as_fd().try_clone_to_owned()?.into(),
        udp,
        tcp: TcpListener::bind(plain)?,
        tls: TcpListener::bind(tls)?,
        tls_config: stream::tls_config()?,
        epoll: epoll::create(epoll::CreateFlags::CLOEXEC)?,
        clients: Vec::new(),
        by_address: HashMap::new(),
        recv: RecvBatch::new(BATCH),
        send: SendBatch::new(),
        outgoing: Vec::new(),
    };
    bare.watch(&bare.udp, UDP)?;
    bare.watch(&bare.tcp, TCP)?;
    bare.watch(&bare.tls, TLS)?;
    let mut events = Vec::with_capacity(BATCH);
    loop {
        if paused {
            std::thread::sleep(PAUSE);
        }
        events.clear();
        epoll::wait(&bare.epoll, spare_capacity(&mut events), None)?;
        for event in &events {
            match event.data.u64() {
                UDP => bare.serve_clients()?,
                TCP => bare.accept(false)?,
                TLS => bare.accept(true)?,
                token if token < STREAMS => bare.serve_peer((token - RELAYS) as usize)?,
                token => bare.serve_stream((token - STREAMS) as usize)?,
            }
        }
    }
}

impl Bare {
    fn watch(&self, socket: &impl std::os::fd::AsFd, token: u64) -> io::Result<()> {
        let token = epoll::EventData::new_u64(token);
        Ok(epoll::add(&self.epoll, socket, token, epoll::EventFlags::IN)?)
    }

    fn add(&mut self, address: SocketAddr, stream: Option<Stream>) -> io::Result<usize> {
        let index = self.clients.len();
        let relay = UdpSocket::bind((self.udp.local_addr().ip(), 0).into(), &OPTIONS)?;
        self.watch(&relay, RELAYS + index as u64)?;
        if let Some(stream) = &stream {
            self.watch(stream, STREAMS + index as u64)?;
        }
        self.send.reserve_egress(index + 2);
        self.clients.push(Client {
            address,
            relay,
            peer: None,
            stream,
        });
        Ok(index)
    }

    fn accept(&mut self, tls: bool) -> io::Result<()> {
        let listener = if tls { &self.tls } else { &self.tcp };
        let (socket, address) = listener.accept()?;
        // A client that only checked whether this listens closes before the handshake.
        match Stream::new(socket, tls.then_some(&self.tls_config)) {
            Ok(stream) => {
                let client = self.add(address, Some(stream))?;
                self.serve_stream(client)
            }
            Err(_) => Ok(()),
        }
    }

    fn serve_clients(&mut self) -> io::Result<()> {
        self.recv.clear();
        for index in self.recv.receive(&self.udp, BATCH)? {
            let Some(slot) = self.recv.slot(index) else { continue };
            let known = self.by_address.get(&slot.source).copied();
            for range in slot.datagrams() {
                let bytes = self.recv.slab().get(range.clone()).unwrap_or_default();
                if let (Some(peer), Ok((_, data))) = (
                    known.and_then(|client| self.clients[client].peer),
                    channel_data::parse(bytes),
                ) {
                    let data = range.start + data.start..range.start + data.end;
                    push(&mut self.send, known.map_or(MAIN, egress), peer, &[], data);
                } else {
                    let request = bytes.to_vec();
                    let client = match self.by_address.get(&slot.source) {
                        Some(&client) => client,
                        None => self.add(slot.source, None)?,
                    };
                    self.by_address.insert(slot.source, client);
                    if let Some(answer) = self.clients[client].answer(&request) {
                        self.answers.send_to(&answer, slot.source)?;
                    }
                }
            }
        }
        self.flush();
        Ok(())
    }

    fn serve_peer(&mut self, index: usize) -> io::Result<()> {
        let client = &mut self.clients[index];
        self.recv.clear();
        self.outgoing.clear();
        let mut header = [0; channel_data::HEADER_LEN];
        for slot in self.recv.receive(&client.relay, BATCH)? {
            let Some(slot) = self.recv.slot(slot) else { continue };
            for range in slot.datagrams() {
                channel_data::emit_header(CHANNEL, range.len(), &mut header);
                if client.stream.is_some() {
                    self.outgoing.extend_from_slice(&header);
                    self.outgoing.extend_from_slice(&self.recv.slab()[range]);
                    self.outgoing.resize(self.outgoing.len().next_multiple_of(4), 0);
                } else {
                    push(&mut self.send, MAIN, client.address, &header, range);
                }
            }
        }
        if let Some(stream) = &mut client.stream {
            stream.write(&self.outgoing)?;
        }
        self.flush();
        Ok(())
    }

    fn serve_stream(&mut self, index: usize) -> io::Result<()> {
        let client = &mut self.clients[index];
        let Some(stream) = &mut client.stream else {
            return Ok(());
        };
        if !stream.read()? {
            return Ok(epoll::delete(&self.epoll, &*stream)?);
        }
        let mut taken = 0;
        while let Some(frame) = client.frame(taken) {
            let bytes = client.bytes().get(frame.clone()).unwrap_or_default();
            if let (Some(peer), Ok((_, data))) = (client.peer, channel_data::parse(bytes)) {
                let data = taken + data.start..taken + data.end;
                push(&mut self.send, egress(index), peer, &[], data);
            } else {
                let request = bytes.to_vec();
                if let (Some(answer), Some(stream)) = (client.answer(&request), &mut client.stream) {
                    stream.write(&answer)?;
                }
            }
            taken = frame.end;
        }
        let (clients, main) = (&self.clients, &self.udp);
        self.send.flush(clients[index].bytes(), Instant::ZERO, |egress| {
            socket(clients, main, egress)
        });
        if let Some(stream) = &mut self.clients[index].stream {
            stream.take(taken);
        }
        Ok(())
    }

    fn flush(&mut self) {
        let (clients, main) = (&self.clients, &self.udp);
        self.send
            .flush(self.recv.slab(), Instant::ZERO, |egress| socket(clients, main, egress));
    }
}

impl Client {
    /// Bytes that arrived on its stream and are not processed yet.
    fn bytes(&self) -> &[u8] {
        self.stream.as_ref().map(Stream::bytes).unwrap_or_default()
    }

    /// The message at `start`, if it is whole.
    fn frame(&self, start: usize) -> Option<Range<usize>> {
        match next_frame(self.bytes().get(start..)?) {
            Ok(Framing::Message(length)) => Some(start..start + length),
            _ => None,
        }
    }

    /// A success response, whatever the request.
    fn answer(&mut self, request: &[u8]) -> Option<Vec<u8>> {
        let message = Message::parse(request).ok()?;
        let method = message.method()?;
        if let Ok(Some(peer)) = message.xor_address(AttributeType::XOR_PEER_ADDRESS) {
            self.peer = Some(peer);
        }
        let mut answer = vec![0; 256];
        let mut writer = MessageWriter::new(&mut answer, Class::Success, method, message.transaction_id());
        if method == Method::Allocate {
            writer.xor_address(AttributeType::XOR_RELAYED_ADDRESS, self.relay.local_addr());
            writer.xor_address(AttributeType::XOR_MAPPED_ADDRESS, self.address);
            writer.u32(AttributeType::LIFETIME, 600);
        }
        let length = writer.finish().ok()?;
        answer.truncate(length);
        Some(answer)
    }
}

/// The number in the batch of a client's relay socket.
fn egress(client: usize) -> u32 {
    u32::try_from(client + 1).unwrap_or(u32::MAX)
}

fn socket<'a>(clients: &'a [Client], main: &'a UdpSocket, egress: u32) -> Option<&'a UdpSocket> {
    match egress {
        MAIN => Some(main),
        other => clients.get(other as usize - 1).map(|client| &client.relay),
    }
}

/// The batch holds more than one round of receiving returns.
fn push(send: &mut SendBatch, egress: u32, destination: SocketAddr, header: &[u8], data: Range<usize>) {
    let full = send.push(&Datagram {
        egress,
        destination,
        source: None,
        tos: 0,
        dont_fragment: false,
        header,
        data,
        padding: 0,
    });
    debug_assert!(full.is_ok(), "a round of receiving fits");
}
