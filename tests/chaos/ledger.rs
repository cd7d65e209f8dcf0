//! All packets, and what happened to each.
//!
//! Application data carries its number. So a receiver can look up its sender and target, the source
//! it must have, and its bytes. The ledger is no TURN server: it knows the responses to clients,
//! and what a relay must never do.

use std::collections::{HashMap, HashSet};
use std::net::SocketAddr;

use relay::wire::message::Message;

use crate::datagrams::Datagram;
use crate::kernel::Loss;
use crate::sealed::is_record;

const MAGIC: [u8; 4] = [0xda, 0x7a, 0xda, 0x7a];
/// Bytes before the pattern.
pub(crate) const HEAD: usize = 12;

/// A sender or receiver of application data.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Who {
    Guest(usize),
    Peer(usize),
}

/// A piece of application data in flight.
#[derive(Clone, Debug)]
pub(crate) struct Parcel {
    pub(crate) from: Who,
    pub(crate) to: Who,
    /// The source address that the receiver must see.
    pub(crate) source: SocketAddr,
    /// The address that it was sent to.
    pub(crate) target: SocketAddr,
    pub(crate) len: usize,
}

/// What happened to a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    Open,
    Arrived,
    /// Lost outside of the program.
    Lost(Loss),
}

#[derive(Default)]
pub(crate) struct Ledger {
    parcels: Vec<(Parcel, Fate)>,
    /// Requests by guest and transaction id.
    requests: HashMap<(usize, [u8; 12]), Fate>,
    /// Other packets that must be dropped: garbage, and messages that are not requests.
    pub(crate) rubbish: u64,
    /// Number of the last parcel that arrived, by flow.
    last: HashMap<(Who, Who, SocketAddr), u64>,
    /// Guests whose stream broke or was closed; data in flight was lost with it.
    pub(crate) broken: HashSet<usize>,
    pub(crate) findings: Vec<String>,
    /// Guests over DTLS and those that have moved, whose data may arrive out of order.
    pub(crate) unordered: HashSet<usize>,
    /// Records of DTLS that the simulated world lost, whatever their content.
    pub(crate) lost_records: u64,
    /// ICMP indications to clients.
    pub(crate) icmp: u64,
    pub(crate) arrived: u64,
}

fn pattern(id: u64, len: usize) -> impl Iterator<Item = u8> {
    (0..len as u64).map(move |i| (id.wrapping_mul(31).wrapping_add(i.wrapping_mul(7)) >> 1) as u8)
}

impl Ledger {
    /// Records a parcel and returns its bytes, at least [`HEAD`] of them.
    pub(crate) fn send(&mut self, parcel: Parcel) -> Vec<u8> {
        let id = self.parcels.len() as u64;
        let mut bytes = [&MAGIC[..], &id.to_le_bytes()].concat();
        bytes.extend(pattern(id, parcel.len - HEAD));
        self.parcels.push((parcel, Fate::Open));
        bytes
    }

    pub(crate) fn sent(&self) -> usize {
        self.parcels.len()
    }

    pub(crate) fn ask(&mut self, guest: usize, transaction: [u8; 12]) {
        self.requests.insert((guest, transaction), Fate::Open);
    }

    pub(crate) fn answered(&mut self, guest: usize, transaction: [u8; 12]) {
        match self.requests.insert((guest, transaction), Fate::Arrived) {
            Some(Fate::Open) => {}
            before => self.find(format!("guest {guest} is answered {transaction:02x?} after {before:?}")),
        }
    }

    pub(crate) fn find(&mut self, finding: String) {
        self.findings.push(finding);
    }

    fn id_of(data: &[u8]) -> Option<u64> {
        let (magic, rest) = data.split_first_chunk::<4>()?;
        let id = rest.first_chunk::<8>().filter(|_| *magic == MAGIC)?;
        Some(u64::from_le_bytes(*id))
    }

    /// `who` received `data`, apparently from `source`.
    pub(crate) fn arrive(&mut self, who: Who, source: SocketAddr, data: &[u8]) -> Option<Parcel> {
        let found = Self::id_of(data).and_then(|id| Some((id, self.parcels.get_mut(id as usize)?)));
        let Some((id, (parcel, fate))) = found else {
            self.find(format!("{who:?} gets {} bytes nobody sent from {source}", data.len()));
            return None;
        };
        let parcel = parcel.clone();
        let before = std::mem::replace(fate, Fate::Arrived);
        let whole = data.len() == parcel.len && data[HEAD..].iter().copied().eq(pattern(id, parcel.len - HEAD));
        let flow = (parcel.from, parcel.to, parcel.source);
        let last = self.last.insert(flow, id);
        if who != parcel.to {
            self.find(format!("{who:?} gets {id}, {parcel:?}"));
        } else if source != parcel.source {
            self.find(format!("{who:?} gets {id} from {source}: {parcel:?}"));
        } else if !whole {
            self.find(format!("{who:?} gets {id} with {} other bytes: {parcel:?}", data.len()));
        } else if before != Fate::Open {
            self.find(format!("{who:?} gets {id} after {before:?}: {parcel:?}"));
        } else if last.is_some_and(|last| last > id) && !self.is_unordered(&parcel) {
            self.find(format!("{who:?} gets {id} after {last:?}: {parcel:?}"));
        }
        self.arrived += 1;
        Some(parcel)
    }

    fn is_unordered(&self, parcel: &Parcel) -> bool {
        let is_unordered = |who: &Who| matches!(who, Who::Guest(guest) if self.unordered.contains(guest));
        is_unordered(&parcel.from) || is_unordered(&parcel.to)
    }

    /// A datagram was lost in the simulated world. It may contain a frame with a parcel, a request,
    /// or a response.
    pub(crate) fn lose(&mut self, loss: Loss, datagram: &Datagram, guests: &HashMap<SocketAddr, usize>) {
        let bytes = &datagram.bytes[..];
        if is_record(bytes) {
            self.lost_records += 1;
            return;
        }
        let lost = Fate::Lost(loss);
        if let Ok(message) = Message::parse(bytes)
            && Self::inner(bytes).is_none()
        {
            let transaction: [u8; 12] = bytes[8..20].try_into().unwrap();
            let ends = [datagram.from, datagram.to]
                .into_iter()
                .filter_map(|end| guests.get(&end));
            for &guest in ends {
                if let Some(fate @ Fate::Open) = self.requests.get_mut(&(guest, transaction)) {
                    *fate = lost;
                    return;
                }
            }
            if message.class() == relay::wire::message::Class::Indication {
                self.icmp += 1;
            }
            return;
        }
        match Self::inner(bytes).and_then(|id| self.parcels.get_mut(id as usize)) {
            Some((_, fate @ Fate::Open)) => *fate = lost,
            Some(_) => self.find(format!(
                "sent twice, and lost: {loss:?} {} to {}",
                datagram.from, datagram.to
            )),
            None => self.rubbish = self.rubbish.saturating_sub(1),
        }
    }

    /// The number of the parcel in a datagram.
    fn inner(bytes: &[u8]) -> Option<u64> {
        let at = bytes.windows(4).position(|window| window == MAGIC)?;
        Self::id_of(&bytes[at..])
    }

    /// Parcels for clients that never arrived; the clients may have had no allocation any more.
    pub(crate) fn missing_to_guests(&self) -> u64 {
        let open = self.parcels.iter().filter(|(_, fate)| *fate == Fate::Open);
        open.filter(|(parcel, _)| matches!(parcel.to, Who::Guest(_))).count() as u64
    }

    /// Parcels that never arrived and were not lost in the simulated world: certainly, and possibly
    /// with a broken stream.
    pub(crate) fn missing(&self) -> (u64, u64) {
        let is_broken = |who: &Who| matches!(who, Who::Guest(guest) if self.broken.contains(guest));
        let parcels = self.parcels.iter().filter(|(_, fate)| *fate == Fate::Open);
        let requests = self.requests.iter().filter(|(_, fate)| **fate == Fate::Open);
        let excused = parcels
            .clone()
            .filter(|(parcel, _)| is_broken(&parcel.from) || is_broken(&parcel.to))
            .count()
            + requests
                .clone()
                .filter(|((guest, _), _)| self.broken.contains(guest))
                .count();
        let all = parcels.count() + requests.count();
        ((all - excused) as u64 + self.rubbish, excused as u64)
    }

    /// Parcels that never arrived and requests without a response, for debugging.
    pub(crate) fn open(&self) -> Vec<String> {
        let asked = self.requests.iter().filter(|(_, fate)| **fate == Fate::Open);
        let asked = asked.map(|((guest, transaction), _)| format!("request {transaction:02x?} of guest {guest}"));
        let open = self
            .parcels
            .iter()
            .enumerate()
            .filter(|(_, (_, fate))| *fate == Fate::Open);
        let parcels = open.map(|(id, (parcel, _))| format!("{id} {parcel:?}"));
        asked.take(10).chain(parcels.take(20)).collect()
    }
}
