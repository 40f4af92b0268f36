//! The messages of the control socket: one datagram each, fixed sizes, little-endian.
//!
//! ```text
//! bell     1 byte: 0                                   client to server: look at my next cell
//! region  16 bytes: 'R' 0 0 0 | id u32 | size u64      either way, with one descriptor: new payload memory
//! retire   8 bytes: 'X' 0 0 0 | id u32                 either way: the sender uses that region no more
//! hello   40 bytes: magic | low u16 | high u16 | kind u32 | cells u32 | zero u32 | control u64 | quota u64
//!                                                      client's first message; with one descriptor when kind is connect
//! answer  64 bytes: magic | low u16 | high u16 | kind u32 | six u64
//!                                                      server's answer: welcome, refusal or status
//! ```
//!
//! The first 16 bytes of hello and answer keep their place and meaning in every version, so that two programs that share
//! no version can still tell each other so.

use crate::Violation;
use crate::layout::{CELLS_MAX, CELLS_MIN};

/// Version of the protocol that this crate speaks.
pub const VERSION: u16 = 1;

/// Oldest version that this crate still speaks.
pub const VERSION_OLDEST: u16 = 1;

/// First bytes of hello and answer.
pub const MAGIC: [u8; 8] = *b"callgate";

/// Size of the largest message, in bytes.
pub const MESSAGE_MAX: usize = 64;

const HELLO_BYTES: usize = 40;
const ANSWER_BYTES: usize = 64;
const KIND_CONNECT: u32 = 1;
const KIND_STATUS: u32 = 2;
const KIND_WELCOME: u32 = 0x81;
const KIND_REFUSAL: u32 = 0x82;
const KIND_STATUS_ANSWER: u32 = 0x83;

/// Versions that a side speaks, both ends included.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Versions {
    /// The oldest.
    pub low: u16,
    /// The newest.
    pub high: u16,
}

impl Versions {
    /// What this crate speaks.
    pub const OURS: Self = Self { low: VERSION_OLDEST, high: VERSION };

    /// The newest version that both speak.
    #[must_use]
    pub fn common(self, other: Self) -> Option<u16> {
        let version = self.high.min(other.high);
        (version >= self.low.max(other.low)).then_some(version)
    }
}

/// What a client asks for in its first message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ask {
    /// To connect; the control region comes with the message.
    Connect {
        /// Number of cells in it.
        cells: u32,
        /// Its size in bytes.
        control: u64,
        /// Most bytes of reply regions that the client maps.
        quota: u64,
    },
    /// To be told how the server does; the socket is closed after the answer.
    Status,
}

/// A client's first message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hello {
    /// Versions that the client speaks.
    pub versions: Versions,
    /// What it asks for; `None` for a kind that this version does not know.
    pub ask: Option<Ask>,
}

/// What a welcomed client must know; it checks and keeps it privately.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Welcome {
    /// Random number of the server's life.
    pub epoch: u64,
    /// Longest request in bytes.
    pub request_max: u64,
    /// Longest reply in bytes.
    pub reply_max: u64,
    /// Most bytes of request regions that the server maps for this client.
    pub quota: u64,
    /// Most calls in flight.
    pub in_flight: u32,
}

/// Why a client is turned away.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u64)]
pub enum Reason {
    /// No common version; the answer's version fields tell the server's range.
    Version = 1,
    /// The caller's user may not use this endpoint.
    Denied = 2,
    /// The server has its number of clients.
    Clients = 3,
    /// The caller's user has its number of clients.
    ClientsOfUser = 4,
    /// More cells than the server allows; the limit says how many calls in flight are.
    InFlight = 5,
    /// The message or the control region was not as the protocol demands.
    Malformed = 6,
    /// The server is stopping.
    Stopping = 7,
    /// The server lacks memory or descriptors.
    Exhausted = 8,
    /// The handshake was not finished in time, or gave way to others.
    TooSlow = 9,
}

impl Reason {
    fn from_code(code: u64) -> Option<Self> {
        use Reason::*;
        [Version, Denied, Clients, ClientsOfUser, InFlight, Malformed, Stopping, Exhausted, TooSlow]
            .into_iter()
            .find(|reason| *reason as u64 == code)
    }
}

/// How a server does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Status {
    /// Nanoseconds since it began to serve.
    pub uptime_ns: u64,
    /// Connected clients.
    pub clients: u64,
    /// Calls taken since it began.
    pub calls: u64,
    /// Clients turned away.
    pub refused: u64,
    /// Connections ended because the client broke the protocol.
    pub violations: u64,
    /// Bytes of payload memory handed out to clients and not yet proven released.
    pub reply_bytes: u64,
}

/// A server's answer to a hello.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// Connected.
    Welcome(Welcome),
    /// Turned away, with the limit that was met where there is one.
    Refusal {
        /// Why; `None` for a reason that this version does not know.
        reason: Option<Reason>,
        /// The server's limit, 0 where none applies.
        limit: u64,
    },
    /// As asked.
    Status(Status),
}

/// A message on an established connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Message {
    /// Look at my next cell.
    Bell,
    /// New payload memory; the descriptor comes with it.
    Region {
        /// Its id, counted by the sender.
        id: u32,
        /// Its size in bytes.
        size: u64,
    },
    /// The sender uses that region no more.
    Retire {
        /// Its id.
        id: u32,
    },
}

/// A message ready to send.
#[derive(Clone, Copy, Debug)]
pub struct Encoded {
    bytes: [u8; MESSAGE_MAX],
    len: usize,
}

impl Encoded {
    fn new() -> Self {
        Self { bytes: [0; MESSAGE_MAX], len: 0 }
    }

    fn put(mut self, bytes: &[u8]) -> Self {
        self.bytes[self.len..self.len + bytes.len()].copy_from_slice(bytes);
        self.len += bytes.len();
        self
    }

    /// The bytes to send.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes[..self.len]
    }
}

impl Hello {
    /// Encodes the message.
    #[must_use]
    pub fn encode(&self) -> Encoded {
        let (kind, cells, control, quota) = match self.ask {
            Some(Ask::Connect { cells, control, quota }) => (KIND_CONNECT, cells, control, quota),
            Some(Ask::Status) => (KIND_STATUS, 0, 0, 0),
            None => (0, 0, 0, 0),
        };
        prologue(self.versions, kind)
            .put(&cells.to_le_bytes())
            .put(&[0; 4])
            .put(&control.to_le_bytes())
            .put(&quota.to_le_bytes())
    }

    /// Decodes a first message.
    ///
    /// # Errors
    /// [`Violation`] when it is none: wrong size or magic, an empty range of versions, cells out of bounds.
    pub fn decode(bytes: &[u8]) -> Result<Self, Violation> {
        let (versions, kind) = read_prologue("hello", bytes)?;
        if versions.common(Versions::OURS).is_none() {
            return Ok(Self { versions, ask: None });
        }
        if bytes.len() != HELLO_BYTES {
            return Err(Violation::new("hello.size", bytes.len() as u64, HELLO_BYTES as u64));
        }
        let ask = match kind {
            KIND_CONNECT => {
                let cells = u32_at(bytes, 16);
                if !(CELLS_MIN..=CELLS_MAX).contains(&cells) {
                    return Err(Violation::new("hello.cells", cells.into(), CELLS_MAX.into()));
                }
                Some(Ask::Connect { cells, control: u64_at(bytes, 24), quota: u64_at(bytes, 32) })
            }
            KIND_STATUS => Some(Ask::Status),
            _ => None,
        };
        Ok(Self { versions, ask })
    }
}

impl Answer {
    /// Encodes the answer of a side that speaks `versions`; a welcome's range is the one version chosen.
    #[must_use]
    pub fn encode(&self, versions: Versions) -> Encoded {
        let (kind, words) = match *self {
            Self::Welcome(w) => (
                KIND_WELCOME,
                [w.epoch, w.request_max, w.reply_max, w.quota, w.in_flight.into(), 0],
            ),
            Self::Refusal { reason, limit } => {
                (KIND_REFUSAL, [reason.map_or(0, |reason| reason as u64), limit, 0, 0, 0, 0])
            }
            Self::Status(s) => (
                KIND_STATUS_ANSWER,
                [s.uptime_ns, s.clients, s.calls, s.refused, s.violations, s.reply_bytes],
            ),
        };
        words
            .iter()
            .fold(prologue(versions, kind), |message, word| message.put(&word.to_le_bytes()))
    }

    /// Decodes an answer, and the versions it came with.
    ///
    /// # Errors
    /// [`Violation`] when it is none, or when a welcome chose a version that was not offered.
    pub fn decode(bytes: &[u8]) -> Result<(Self, Versions), Violation> {
        let (versions, kind) = read_prologue("answer", bytes)?;
        if kind == KIND_REFUSAL && versions.common(Versions::OURS).is_none() {
            // Whatever follows there is of another version; the prologue says enough.
            return Ok((Self::Refusal { reason: Some(Reason::Version), limit: 0 }, versions));
        }
        if bytes.len() != ANSWER_BYTES {
            return Err(Violation::new("answer.size", bytes.len() as u64, ANSWER_BYTES as u64));
        }
        let word = |index: usize| u64_at(bytes, 16 + 8 * index);
        let answer = match kind {
            KIND_WELCOME => {
                if versions.low != versions.high || versions.common(Versions::OURS).is_none() {
                    return Err(Violation::new(
                        "answer.high",
                        versions.high.into(),
                        VERSION.into(),
                    ));
                }
                let in_flight = u32::try_from(word(4))
                    .map_err(|_| Violation::new("answer.in_flight", word(4), CELLS_MAX.into()))?;
                Self::Welcome(Welcome {
                    epoch: word(0),
                    request_max: word(1),
                    reply_max: word(2),
                    quota: word(3),
                    in_flight,
                })
            }
            KIND_REFUSAL => Self::Refusal { reason: Reason::from_code(word(0)), limit: word(1) },
            KIND_STATUS_ANSWER => Self::Status(Status {
                uptime_ns: word(0),
                clients: word(1),
                calls: word(2),
                refused: word(3),
                violations: word(4),
                reply_bytes: word(5),
            }),
            _ => return Err(Violation::new("answer.kind", kind.into(), KIND_STATUS_ANSWER.into())),
        };
        Ok((answer, versions))
    }
}

impl Message {
    /// Encodes the message.
    #[must_use]
    pub fn encode(&self) -> Encoded {
        match *self {
            Self::Bell => Encoded::new().put(&[0]),
            Self::Region { id, size } => {
                Encoded::new().put(b"R\0\0\0").put(&id.to_le_bytes()).put(&size.to_le_bytes())
            }
            Self::Retire { id } => Encoded::new().put(b"X\0\0\0").put(&id.to_le_bytes()),
        }
    }

    /// Decodes a message.
    ///
    /// # Errors
    /// [`Violation`] when it is none of the three.
    pub fn decode(bytes: &[u8]) -> Result<Self, Violation> {
        match bytes {
            [0] => Ok(Self::Bell),
            [b'R', 0, 0, 0, ..] if bytes.len() == 16 => {
                Ok(Self::Region { id: u32_at(bytes, 4), size: u64_at(bytes, 8) })
            }
            [b'X', 0, 0, 0, ..] if bytes.len() == 8 => Ok(Self::Retire { id: u32_at(bytes, 4) }),
            [kind, ..] => Err(Violation::new("message.kind", (*kind).into(), b'X'.into())),
            [] => Err(Violation::new("message.size", 0, 1)),
        }
    }
}

fn prologue(versions: Versions, kind: u32) -> Encoded {
    Encoded::new()
        .put(&MAGIC)
        .put(&versions.low.to_le_bytes())
        .put(&versions.high.to_le_bytes())
        .put(&kind.to_le_bytes())
}

fn read_prologue(what: &'static str, bytes: &[u8]) -> Result<(Versions, u32), Violation> {
    let name =
        |hello: &'static str, answer: &'static str| if what == "hello" { hello } else { answer };
    if bytes.len() < 16 {
        return Err(Violation::new(name("hello.size", "answer.size"), bytes.len() as u64, 16));
    }
    if bytes[..8] != MAGIC {
        let field = name("hello.magic", "answer.magic");
        return Err(Violation::new(field, u64_at(bytes, 0), u64::from_le_bytes(MAGIC)));
    }
    let versions = Versions {
        low: u16::from_le_bytes([bytes[8], bytes[9]]),
        high: u16::from_le_bytes([bytes[10], bytes[11]]),
    };
    if versions.low > versions.high {
        let field = name("hello.low", "answer.low");
        return Err(Violation::new(field, versions.low.into(), versions.high.into()));
    }
    Ok((versions, u32_at(bytes, 12)))
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    let mut word = [0; 4];
    word.copy_from_slice(&bytes[at..at + 4]);
    u32::from_le_bytes(word)
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    let mut word = [0; 8];
    word.copy_from_slice(&bytes[at..at + 8]);
    u64::from_le_bytes(word)
}

#[cfg(all(test, not(loom)))]
mod tests;
