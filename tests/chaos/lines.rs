//! Connections of TCP allocations (RFC 6062) as the test knows them: which ends are joined, and
//! what may be missing.

use core::time::Duration;
use std::collections::VecDeque;
use std::io::{ErrorKind, Read, Write};
use std::net::SocketAddr;

use relay::net::stream::StreamLimits;
use relay::wire::attribute::AttributeType;
use relay::wire::framing::{Framing, next_frame};
use relay::wire::message::{Class, Message, Method};

use crate::ends::{End, Over};
use crate::guest::composer;
use crate::ledger::Ledger;
use crate::plug::Plug;
use crate::world::World;
use relay_testkit_server::Client;

/// In the ledger, requests on the connection of end `n` belong to guest `LINE + n`.
const LINE: usize = 1 << 20;

/// A client's connection to be joined with a peer's, and its ConnectionBind.
pub(crate) struct Binding {
    id: u32,
    composer: Client,
    transaction: [u8; 12],
    out: VecDeque<u8>,
    input: Vec<u8>,
    /// It has logged in and sends data for the peer without waiting for the response.
    eager: bool,
    signed: bool,
}

/// An end, and what it waits for.
pub(crate) struct Line {
    pub(crate) end: End,
    /// Its guest; `None`: a peer's end.
    pub(crate) guest: Option<usize>,
    binding: Option<Binding>,
}

#[derive(Default)]
pub(crate) struct Lines {
    pub(crate) all: Vec<Line>,
}

impl Binding {
    fn new(id: u32, eager: bool) -> Self {
        Self {
            id,
            composer: composer(),
            transaction: [0; 12],
            out: VecDeque::new(),
            input: Vec::new(),
            eager,
            signed: false,
        }
    }

    fn ask(&mut self, ledger: &mut Ledger, line: usize) {
        let id = self.id;
        let request = self.composer.compose(Method::ConnectionBind, &|writer| {
            writer.u32(AttributeType::CONNECTION_ID, id);
        });
        self.signed = self.composer.nonce.is_some();
        self.transaction = request[8..20].try_into().unwrap();
        ledger.ask(line, self.transaction);
        self.out.extend(request);
    }

    fn write(&mut self, stream: &mut Plug) {
        while !self.out.is_empty() {
            let (front, _) = self.out.as_slices();
            match stream.write(front) {
                Ok(len) => drop(self.out.drain(..len)),
                // Reading reports the error.
                Err(_) => return,
            }
        }
        let _ = stream.flush();
    }
}

impl Line {
    fn key(&self) -> usize {
        LINE + self.end.number
    }

    /// It carries bytes between a client and a peer, as far as it knows.
    pub(crate) fn is_open(&self) -> bool {
        self.binding.is_none() && self.end.over.is_none()
    }

    /// Its connection is closed, with all requests on it.
    fn give_up(&mut self, ledger: &mut Ledger) {
        self.leave(ledger, false);
    }

    /// Closes its connection, or resets it.
    pub(crate) fn leave(&mut self, ledger: &mut Ledger, reset: bool) {
        if self.binding.take().is_some() {
            ledger.broken.insert(self.key());
        }
        self.end.leave(reset);
    }

    pub(crate) fn pump(&mut self, ledger: &mut Ledger, world: &World) {
        self.bind(ledger);
        match &self.binding {
            Some(binding) if binding.eager && binding.signed && binding.out.is_empty() => self.end.send(),
            Some(_) => {}
            None => self.end.send(),
        }
        if self.binding.is_none()
            && let Some(wrong) = self.end.receive(world)
        {
            ledger.find(wrong);
        }
    }

    /// Continues the ConnectionBind.
    fn bind(&mut self, ledger: &mut Ledger) {
        while let (Some(binding), Some(stream)) = (&mut self.binding, self.end.stream()) {
            binding.write(stream);
            match next_frame(&binding.input) {
                Ok(Framing::Message(len)) => {
                    let response: Vec<u8> = binding.input.drain(..len).collect();
                    self.hear(ledger, &response);
                    continue;
                }
                Ok(Framing::Need(_)) => {}
                Err(error) => {
                    ledger.find(format!("end {} gets no TURN: {error:?}", self.end.number));
                    return;
                }
            }
            let mut buffer = vec![0; 65_536];
            match stream.read(&mut buffer) {
                Ok(len) if len > 0 => binding.input.extend_from_slice(&buffer[..len]),
                Err(error) if error.kind() == ErrorKind::WouldBlock => return,
                Err(error) if error.kind() == ErrorKind::InvalidData => {
                    ledger.find(format!("end {}: {error}", self.end.number));
                    return;
                }
                _ => {
                    self.give_up(ledger);
                    return;
                }
            }
        }
    }

    fn hear(&mut self, ledger: &mut Ledger, response: &[u8]) {
        let key = self.key();
        let Some(binding) = &mut self.binding else { return };
        let Ok(message) = Message::parse(response) else {
            ledger.find(format!("end {} gets {response:02x?}", self.end.number));
            return;
        };
        ledger.answered(key, binding.transaction);
        if message.class() == Class::Success {
            let rest = std::mem::take(&mut binding.input);
            self.binding = None;
            if let Some(wrong) = self.end.take(&rest) {
                ledger.find(wrong);
            }
            return;
        }
        let nonce = message.attribute(AttributeType::NONCE).map(<[u8]>::to_vec);
        // Data after a failed request was not TURN, so the stream has lost framing.
        if nonce.is_none() || self.end.sent > 0 {
            self.give_up(ledger);
            return;
        }
        binding.composer.nonce = nonce;
        binding.ask(ledger, key);
    }
}

impl Lines {
    /// A connection of a peer.
    pub(crate) fn peer(&mut self, local: SocketAddr, remote: SocketAddr, stream: Plug) -> usize {
        self.add(None, local, remote, stream, None)
    }

    /// A guest's connection that requests to be joined with connection `id`.
    pub(crate) fn client(
        &mut self,
        ledger: &mut Ledger,
        (guest, local): (usize, SocketAddr),
        (id, remote): (u32, SocketAddr),
        stream: Plug,
        eager: bool,
    ) -> usize {
        let binding = Binding::new(id, eager);
        let number = self.add(Some(guest), local, remote, stream, Some(binding));
        let key = self.all[number].key();
        if let Some(binding) = &mut self.all[number].binding {
            binding.ask(ledger, key);
        }
        number
    }

    fn add(
        &mut self,
        guest: Option<usize>,
        local: SocketAddr,
        remote: SocketAddr,
        stream: Plug,
        binding: Option<Binding>,
    ) -> usize {
        let number = self.all.len();
        self.all.push(Line {
            end: End::new(number, local, remote, stream),
            guest,
            binding,
        });
        number
    }

    /// All ends write and read.
    pub(crate) fn pump(&mut self, ledger: &mut Ledger, world: &World) {
        for line in &mut self.all {
            line.pump(ledger, world);
        }
        self.check_pairs(ledger);
    }

    /// Checks that every end is joined with the right one, and receives no more than that has sent.
    fn check_pairs(&self, ledger: &mut Ledger) {
        for Line { end, .. } in &self.all {
            let Some(number) = end.heard else { continue };
            let number_of = end.number;
            let Some(Line { end: other, .. }) = self.all.get(number) else {
                ledger.find(format!("end {number_of} gets bytes of end {number}, who never was"));
                continue;
            };
            if (end.local, end.remote) != (other.remote, other.local) {
                ledger.find(format!(
                    "end {number_of}, {} to {}, gets bytes of end {number}, {} to {}",
                    end.local, end.remote, other.local, other.remote
                ));
            } else if other.heard.is_some_and(|heard| heard != number_of) {
                ledger.find(format!("ends {number_of} and {:?} get bytes of {number}", other.heard));
            } else if end.got > other.sent {
                ledger.find(format!("end {number_of} gets more than end {number} has sent"));
            }
        }
    }

    /// Checks, after a period without sending, that open connections have carried everything, and
    /// that at most as many others broke as the program reports.
    pub(crate) fn judge(&self, ledger: &mut Ledger, ended: u64) {
        let mut cut = Vec::new();
        for a in self.all.iter().filter(|line| line.guest.is_some()) {
            let Some(b) = self.other_of(a) else { continue };
            let [a, b] = [&a.end, &b.end];
            let excused = [a, b]
                .iter()
                .any(|end| end.broken || end.was_deaf || end.over == Some(Over::Left));
            let whole = a.got == b.sent && b.got == a.sent;
            let open = a.over.is_none() && b.over.is_none();
            if excused {
                continue;
            }
            for (says, hears) in [(a, b), (b, a)] {
                if says.shut && hears.got == says.sent && hears.over.is_none() {
                    ledger.find(format!(
                        "end {} is not told of the end of {}",
                        hears.number, says.number
                    ));
                }
            }
            if whole && (open || a.shut || b.shut) {
                continue;
            }
            let what = format!(
                "ends {} and {}: {} of {} and {} of {} bytes arrived, {:?} and {:?}",
                a.number, b.number, b.got, a.sent, a.got, b.sent, a.over, b.over
            );
            if open {
                ledger.find(what);
            } else if a.shut == b.shut {
                cut.push(what);
            }
        }
        if cut.len() as u64 > ended {
            ledger.find(format!("{ended} connections were cut by the program: {cut:#?}"));
        }
    }

    /// The end that a client's is joined with: it has received from one, or only one is possible.
    fn other_of(&self, a: &Line) -> Option<&Line> {
        let known = a.end.heard.or_else(|| {
            let hears = |line: &&Line| line.end.heard == Some(a.end.number);
            self.all.iter().find(hears).map(|line| line.end.number)
        });
        if let Some(number) = known {
            return self.all.get(number);
        }
        let means = |line: &&Line| (line.end.remote, line.end.local) == (a.end.local, a.end.remote);
        let mut all = self.all.iter().filter(means);
        let only = all.next().filter(|_| all.next().is_none())?;
        (a.is_open() && only.is_open()).then_some(only)
    }

    pub(crate) fn listen_again(&mut self, now: u64) {
        let patience: Duration = StreamLimits::default().write_timeout;
        self.all
            .iter_mut()
            .for_each(|line| line.end.listen_again(now, patience));
    }

    /// All ends close.
    pub(crate) fn leave(&mut self, ledger: &mut Ledger) {
        self.all.iter_mut().for_each(|line| line.give_up(ledger));
    }
}
