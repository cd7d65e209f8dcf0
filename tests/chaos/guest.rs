//! A non-blocking client: it sends at random and reads what arrives.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, UdpSocket};

use relay::wire::attribute::AttributeType;
use relay::wire::framing::{Framing, next_frame};
use relay::wire::message::{Class, Message, Method};

use crate::ledger::{Ledger, Who};
use crate::plug::Plug;
use crate::sealed::{Heard, Sealed};
use relay_testkit_server::{Client, Incoming, Messages, Pipe, decode, error_code};

/// Its transport.
pub(crate) enum Way {
    Udp(UdpSocket),
    Tcp {
        stream: Plug,
        /// Written by the guest, but not yet by the socket.
        out: VecDeque<u8>,
        input: Vec<u8>,
    },
    Sealed(Box<dyn Sealed>),
    /// It no longer has a connection.
    Gone,
}

/// Nothing more will arrive.
struct Over;

/// The content of a request.
#[derive(Clone, Copy, Debug)]
enum Asked {
    Allocate,
    Release,
    /// Permission to reach a peer.
    Permit(SocketAddr),
    /// Its allocation, at its new address.
    Resume,
    /// A connection with a peer.
    Connect(SocketAddr),
    Other,
}

pub(crate) struct Guest {
    pub(crate) index: usize,
    pub(crate) way: Way,
    composer: Client,
    asked: HashMap<[u8; 12], Asked>,
    /// Its relayed transport address, from the response.
    pub(crate) relayed: Option<SocketAddr>,
    /// Every relayed address it has had.
    pub(crate) had: BTreeSet<SocketAddr>,
    /// The peers that its allocation reaches, by the responses.
    pub(crate) open: BTreeSet<SocketAddr>,
    /// All peers that it has requested permissions for. One may be granted although its response
    /// was lost.
    permitted: BTreeSet<SocketAddr>,
    /// All channels it has requested. A number is never reused for another peer.
    pub(crate) channels: BTreeMap<u16, SocketAddr>,
    next_channel: u16,
    /// It does not read.
    pub(crate) deaf: bool,
    /// Addresses and connections from before it moved.
    old: Vec<Way>,
    /// Its allocations are mobile (RFC 8016): the latest ticket, and the relayed address.
    pub(crate) mobile: bool,
    pub(crate) ticket: Option<(Vec<u8>, SocketAddr)>,
    /// Its allocations are for TCP (RFC 6062).
    pub(crate) dials: bool,
    /// Connections with peers that it may bind: CONNECTION-ID and peer.
    pub(crate) pending: Vec<(u32, SocketAddr)>,
}

/// Composes messages and sends none.
pub(crate) fn composer() -> Client {
    Client::new(Pipe::Messages(Box::new(Nowhere)))
}

/// Never sends; it only composes messages.
struct Nowhere;

impl Messages for Nowhere {
    fn send(&mut self, _: &[u8]) {}

    fn recv(&mut self, _: core::time::Duration) -> Option<Vec<u8>> {
        None
    }
}

impl Guest {
    pub(crate) fn new(index: usize, way: Way) -> Self {
        Self {
            index,
            way,
            composer: composer(),
            asked: HashMap::new(),
            relayed: None,
            had: BTreeSet::new(),
            open: BTreeSet::new(),
            permitted: BTreeSet::new(),
            channels: BTreeMap::new(),
            next_channel: 0x4000,
            deaf: false,
            old: Vec::new(),
            mobile: false,
            ticket: None,
            dials: false,
            pending: Vec::new(),
        }
    }

    pub(crate) fn is_gone(&self) -> bool {
        matches!(self.way, Way::Gone)
    }

    /// It waits for the response to an Allocate.
    pub(crate) fn is_allocating(&self) -> bool {
        self.asked.values().any(|asked| matches!(asked, Asked::Allocate))
    }

    /// Sends one message. `false`: it has no connection.
    pub(crate) fn send(&mut self, bytes: &[u8]) -> bool {
        match &mut self.way {
            Way::Udp(socket) => socket.send(bytes).is_ok(),
            Way::Tcp { out, .. } => {
                out.extend(bytes);
                out.resize(out.len() + bytes.len().next_multiple_of(4) - bytes.len(), 0);
                true
            }
            Way::Sealed(association) => {
                association.send(bytes);
                true
            }
            Way::Gone => false,
        }
    }

    fn ask(&mut self, ledger: &mut Ledger, asked: Asked, request: &[u8]) {
        let transaction: [u8; 12] = request[8..20].try_into().unwrap();
        if self.send(request) {
            ledger.ask(self.index, transaction);
            self.asked.insert(transaction, asked);
        }
    }

    /// Connections whose response it waits for.
    pub(crate) fn connecting(&self) -> usize {
        let all = self.asked.values();
        all.filter(|asked| matches!(asked, Asked::Connect(_))).count()
    }

    pub(crate) fn allocate(&mut self, ledger: &mut Ledger) {
        let protocol: u32 = if self.dials { 6 } else { 17 };
        let mobile = self.mobile;
        let request = self.composer.compose(Method::Allocate, &|writer| {
            writer.u32(AttributeType::REQUESTED_TRANSPORT, protocol << 24);
            if mobile {
                writer.attribute(AttributeType::MOBILITY_TICKET, &[]);
            }
        });
        self.ask(ledger, Asked::Allocate, &request);
    }

    pub(crate) fn refresh(&mut self, ledger: &mut Ledger, lifetime: u32) {
        let request = self.composer.compose(Method::Refresh, &|writer| {
            writer.u32(AttributeType::LIFETIME, lifetime);
        });
        let asked = if lifetime == 0 { Asked::Release } else { Asked::Other };
        self.ask(ledger, asked, &request);
    }

    pub(crate) fn permit(&mut self, ledger: &mut Ledger, peer: SocketAddr) {
        let request = self.composer.compose(Method::CreatePermission, &|writer| {
            writer.xor_address(AttributeType::XOR_PEER_ADDRESS, peer);
        });
        self.permitted.insert(peer);
        self.ask(ledger, Asked::Permit(peer), &request);
    }

    /// Requests its allocation from its current address.
    fn resume(&mut self, ledger: &mut Ledger) {
        let Some((ticket, _)) = self.ticket.clone() else { return };
        let request = self.composer.compose(Method::Refresh, &|writer| {
            writer.attribute(AttributeType::MOBILITY_TICKET, &ticket);
        });
        self.ask(ledger, Asked::Resume, &request);
    }

    /// Continues at another address or on another connection; it may still receive on the previous
    /// one.
    pub(crate) fn move_to(&mut self, ledger: &mut Ledger, way: Way, keep: bool) {
        let before = std::mem::replace(&mut self.way, way);
        if keep {
            self.old.push(before);
        } else if !matches!(before, Way::Udp(_)) {
            ledger.broken.insert(self.index);
        }
        ledger.unordered.insert(self.index);
        self.resume(ledger);
    }

    pub(crate) fn connect(&mut self, ledger: &mut Ledger, peer: SocketAddr) {
        let request = self.composer.compose(Method::Connect, &|writer| {
            writer.xor_address(AttributeType::XOR_PEER_ADDRESS, peer);
        });
        self.ask(ledger, Asked::Connect(peer), &request);
    }

    pub(crate) fn bind(&mut self, ledger: &mut Ledger, peer: SocketAddr) {
        let known = self
            .channels
            .iter()
            .find(|(_, bound)| **bound == peer)
            .map(|(&number, _)| number);
        let number = known.unwrap_or_else(|| {
            self.next_channel = 0x4000 + (self.next_channel - 0x4000 + 1) % 0x800;
            self.next_channel
        });
        let request = self.composer.compose(Method::ChannelBind, &|writer| {
            writer.u32(AttributeType::CHANNEL_NUMBER, u32::from(number) << 16);
            writer.xor_address(AttributeType::XOR_PEER_ADDRESS, peer);
        });
        self.permitted.insert(peer);
        self.channels.insert(number, peer);
        self.ask(ledger, Asked::Permit(peer), &request);
    }

    /// The frame around data for a peer: ChannelData if there is a channel, otherwise a Send
    /// indication.
    pub(crate) fn frame(&mut self, peer: SocketAddr, data: &[u8], indication: bool) -> Vec<u8> {
        let channel = self
            .channels
            .iter()
            .find(|(_, bound)| **bound == peer)
            .filter(|_| !indication);
        match channel {
            Some((&number, _)) => self.composer.channel_frame(number, data),
            None => self.composer.indication(peer, data),
        }
    }

    /// Reads what has arrived, and writes what its socket accepts.
    pub(crate) fn pump(&mut self, ledger: &mut Ledger) {
        for mut old in std::mem::take(&mut self.old) {
            std::mem::swap(&mut self.way, &mut old);
            let goes_on = self.flush() && self.hear_all(ledger);
            std::mem::swap(&mut self.way, &mut old);
            if goes_on {
                self.old.push(old);
            } else {
                ledger.broken.insert(self.index);
            }
        }
        if !self.flush() || (!self.deaf && !self.hear_all(ledger)) {
            self.leave(ledger);
        }
    }

    /// Writes what a stream accepts. `false`: it accepts nothing any more.
    fn flush(&mut self) -> bool {
        let Way::Tcp { stream, out, .. } = &mut self.way else {
            return true;
        };
        while !out.is_empty() {
            let (front, _) = out.as_slices();
            match stream.write(front) {
                Ok(len) => drop(out.drain(..len)),
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(_) => return false,
            }
        }
        // What TLS holds back; reading reports an error.
        let _ = stream.flush();
        true
    }

    /// `false`: nothing more will arrive.
    fn hear_all(&mut self, ledger: &mut Ledger) -> bool {
        loop {
            match self.next_message(ledger) {
                Ok(Some(message)) => self.hear(ledger, &message),
                Ok(None) => return true,
                Err(Over) => return false,
            }
        }
    }

    /// Closes its connection, if it has one that closes.
    pub(crate) fn leave(&mut self, ledger: &mut Ledger) {
        match &mut self.way {
            Way::Tcp { .. } => drop(ledger.broken.insert(self.index)),
            Way::Sealed(association) => {
                // Some disconnect without notice.
                if self.index.is_multiple_of(2) {
                    association.close();
                }
                ledger.broken.insert(self.index);
            }
            Way::Udp(_) | Way::Gone => {}
        }
        self.way = Way::Gone;
        self.relayed = None;
    }

    /// Some of its data waits for the end of a handshake.
    pub(crate) fn holds_back(&self) -> bool {
        let mut ways = self.old.iter().chain([&self.way]);
        ways.any(|way| matches!(way, Way::Sealed(association) if !association.is_up()))
    }

    /// Closes everything it has, for good.
    pub(crate) fn leave_for_good(&mut self, ledger: &mut Ledger) {
        self.leave(ledger);
        if self.old.drain(..).any(|way| !matches!(way, Way::Udp(_))) {
            ledger.broken.insert(self.index);
        }
    }

    fn next_message(&mut self, ledger: &mut Ledger) -> Result<Option<Vec<u8>>, Over> {
        let mut buffer = vec![0; 65_536];
        match &mut self.way {
            Way::Udp(socket) => Ok(socket.recv(&mut buffer).ok().map(|len| {
                buffer.truncate(len);
                buffer
            })),
            Way::Tcp { stream, input, .. } => loop {
                match next_frame(input) {
                    Ok(Framing::Message(len)) => return Ok(Some(input.drain(..len).collect())),
                    Ok(Framing::Need(_)) => {}
                    Err(error) => {
                        ledger.find(format!("guest {}'s stream is out of step: {error:?}", self.index));
                        return Err(Over);
                    }
                }
                match stream.read(&mut buffer) {
                    Ok(len) if len > 0 => input.extend_from_slice(&buffer[..len]),
                    Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(None),
                    Err(error) if error.kind() == ErrorKind::InvalidData => {
                        ledger.find(format!("guest {}: {error}", self.index));
                        return Err(Over);
                    }
                    _ => return Err(Over),
                }
            },
            Way::Sealed(association) => match association.receive() {
                Heard::Message(message) => Ok(Some(message)),
                Heard::Nothing => Ok(None),
                Heard::End => Err(Over),
            },
            Way::Gone => Ok(None),
        }
    }

    fn hear(&mut self, ledger: &mut Ledger, bytes: &[u8]) {
        if let Ok(message) = Message::parse(bytes)
            && message.class() != Class::Indication
        {
            self.hear_response(ledger, &message, bytes[8..20].try_into().unwrap());
            return;
        }
        match decode(bytes) {
            Incoming::Channel { number, data } => {
                let Some(&peer) = self.channels.get(&number) else {
                    ledger.find(format!("guest {} gets data on channel {number:#x}", self.index));
                    return;
                };
                self.hear_data(ledger, peer, &data);
            }
            Incoming::Data { peer, data } => self.hear_data(ledger, peer, &data),
            Incoming::Icmp { peer, .. } => {
                ledger.icmp += 1;
                if !self.had_to_do_with(peer) {
                    ledger.find(format!("guest {} hears of ICMP from {peer}", self.index));
                }
            }
            Incoming::Attempt { peer, id } => {
                if !self.dials || !self.had_to_do_with(peer) {
                    ledger.find(format!("guest {} hears of {peer} that connects to it", self.index));
                }
                self.pending.push((id, peer));
            }
        }
    }

    fn had_to_do_with(&self, peer: SocketAddr) -> bool {
        self.permitted.iter().any(|permitted| permitted.ip() == peer.ip())
    }

    fn hear_data(&mut self, ledger: &mut Ledger, peer: SocketAddr, data: &[u8]) {
        let parcel = ledger.arrive(Who::Guest(self.index), peer, data);
        if let Some(parcel) = parcel
            && !self.had.contains(&parcel.target)
        {
            ledger.find(format!("guest {} never had the address of {parcel:?}", self.index));
        }
        if !self.had_to_do_with(peer) {
            ledger.find(format!(
                "guest {} gets data of {peer}, whom it has not permitted",
                self.index
            ));
        }
    }

    fn hear_response(&mut self, ledger: &mut Ledger, message: &Message<'_>, transaction: [u8; 12]) {
        ledger.answered(self.index, transaction);
        let Some(asked) = self.asked.remove(&transaction) else {
            return;
        };
        if let Some(code) = error_code(message) {
            match code {
                401 | 438 => {
                    self.composer.nonce = message.attribute(AttributeType::NONCE).map(<[u8]>::to_vec);
                    if matches!(asked, Asked::Resume) {
                        self.resume(ledger);
                    }
                }
                _ if matches!(asked, Asked::Resume) => {
                    self.ticket = None;
                    self.forget_allocation();
                }
                // It has none, or one it does not know of.
                437 => self.forget_allocation(),
                _ => {}
            }
            return;
        }
        let ticket = message.attribute(AttributeType::MOBILITY_TICKET).map(<[u8]>::to_vec);
        match asked {
            Asked::Allocate => {
                let relayed = message
                    .xor_address(AttributeType::XOR_RELAYED_ADDRESS)
                    .unwrap()
                    .unwrap();
                self.forget_allocation();
                self.relayed = Some(relayed);
                self.had.insert(relayed);
                self.ticket = ticket.map(|ticket| (ticket, relayed));
            }
            Asked::Resume => {
                if let (Some(ticket), Some((_, relayed))) = (ticket, self.ticket.take()) {
                    self.ticket = Some((ticket, relayed));
                    self.relayed = Some(relayed);
                }
            }
            Asked::Release => self.forget_allocation(),
            Asked::Permit(peer) => drop(self.open.insert(peer)),
            Asked::Connect(peer) => {
                let id = message.attribute(AttributeType::CONNECTION_ID).unwrap();
                self.pending.push((u32::from_be_bytes(id.try_into().unwrap()), peer));
            }
            Asked::Other => {}
        }
    }

    fn forget_allocation(&mut self) {
        self.relayed = None;
        self.open.clear();
        self.pending.clear();
    }
}
