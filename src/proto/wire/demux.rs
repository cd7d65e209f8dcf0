//! Classifies a packet by its first byte (RFC 7983 §7, RFC 8656 §12).

/// The protocol that a first byte indicates.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// 0..=3: a STUN message.
    Stun,
    /// 0x40..=0x4F: a ChannelData message.
    ChannelData,
    /// 0x50..=0x7F: a channel number that RFC 5766 allowed and RFC 8656 reserves.
    ReservedChannel,
    /// 20..=63: a DTLS record, or a TLS record on a stream.
    Dtls,
    /// Anything else.
    Other,
}

/// Classifies a packet or stream that starts with `first_byte`.
pub const fn classify(first_byte: u8) -> Kind {
    match first_byte {
        0..=3 => Kind::Stun,
        20..=63 => Kind::Dtls,
        0x40..=0x4F => Kind::ChannelData,
        0x50..=0x7F => Kind::ReservedChannel,
        _ => Kind::Other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    //= STUN-MSG-01
    //= XPORT-13
    #[test]
    fn every_first_byte_has_the_kind_the_rfc_gives_it() {
        const CASES: [(u8, u8, Kind); 7] = [
            (0, 3, Kind::Stun),
            (4, 19, Kind::Other),
            (20, 63, Kind::Dtls),
            (64, 79, Kind::ChannelData),
            (80, 127, Kind::ReservedChannel),
            (128, 191, Kind::Other),
            (192, 255, Kind::Other),
        ];
        for (from, to, kind) in CASES {
            for byte in from..=to {
                assert_eq!(classify(byte), kind, "byte {byte:#04x}");
            }
        }
    }
}
