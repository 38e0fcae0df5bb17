//! Which connections a fault concerns, and what it does to them.

use std::net::{IpAddr, SocketAddr};
use std::ops::RangeInclusive;
use std::time::Duration;

/// One end of connections.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Place {
    /// Every address.
    Anywhere,
    /// Every port of a host.
    Host(IpAddr),
    /// One address: that of a listener, or of one connection's opener.
    Address(SocketAddr),
    /// Any of these.
    AnyOf(Vec<Self>),
}

impl Place {
    fn contains(&self, address: SocketAddr) -> bool {
        match self {
            Self::Anywhere => true,
            Self::Host(host) => *host == address.ip(),
            Self::Address(one) => *one == address,
            Self::AnyOf(places) => places.iter().any(|place| place.contains(address)),
        }
    }
}

impl From<IpAddr> for Place {
    fn from(host: IpAddr) -> Self {
        Self::Host(host)
    }
}

impl From<SocketAddr> for Place {
    fn from(address: SocketAddr) -> Self {
        Self::Address(address)
    }
}

impl<T: Into<Self>> From<Vec<T>> for Place {
    fn from(places: Vec<T>) -> Self {
        Self::AnyOf(places.into_iter().map(Into::into).collect())
    }
}

/// A set of connections, by their two ends in either order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Links {
    one: Place,
    other: Place,
}

impl Links {
    /// All connections.
    pub fn all() -> Self {
        Self::between(Place::Anywhere, Place::Anywhere)
    }

    /// All connections from and to `place`.
    pub fn of(place: impl Into<Place>) -> Self {
        Self::between(place, Place::Anywhere)
    }

    /// The connections between `one` and `other`, whoever opened them.
    pub fn between(one: impl Into<Place>, other: impl Into<Place>) -> Self {
        Self { one: one.into(), other: other.into() }
    }

    pub(super) fn contains(&self, client: SocketAddr, server: SocketAddr) -> bool {
        (self.one.contains(client) && self.other.contains(server))
            || (self.one.contains(server) && self.other.contains(client))
    }
}

/// Directions of a connection. The server is the end that accepted it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// From the opener to the acceptor: requests.
    ToServer,
    /// From the acceptor to the opener: answers.
    ToClient,
    /// Both.
    Both,
}

impl Direction {
    pub(super) fn covers(self, direction: Self) -> bool {
        self == Self::Both || direction == Self::Both || self == direction
    }
}

/// Names a fault, to heal it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[must_use = "the fault stays until it is healed with this"]
pub struct FaultId(pub(super) u64);

/// A fault that lasts until it is healed, for connections of now and later.
#[derive(Clone, Debug)]
pub(super) struct Fault {
    pub(super) links: Links,
    pub(super) direction: Direction,
    pub(super) effect: Effect,
}

#[derive(Clone, Debug)]
pub(super) enum Effect {
    /// Bytes, ends and connection attempts wait.
    Hold,
    /// Connection attempts are refused.
    Refuse,
    /// Added to the delay of every chunk.
    Delay(RangeInclusive<Duration>),
    /// Bytes per second.
    Bandwidth(u64),
    /// New connections are cut after so many bytes.
    CutNewAfter(u64),
}

impl Fault {
    pub(super) fn concerns(&self, client: SocketAddr, server: SocketAddr, direction: Direction) -> bool {
        self.direction.covers(direction) && self.links.contains(client, server)
    }
}
