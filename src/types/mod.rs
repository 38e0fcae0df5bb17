//! Identifiers as newtypes, so that a partition is never mistaken for an offset.

use std::fmt;

use bytestring::ByteString;

mod secret;
mod security;
mod uuid;

pub use secret::Secret;
#[cfg(feature = "sasl")]
pub(crate) use secret::is_same;
pub use security::SecurityProtocol;
pub use uuid::Uuid;

macro_rules! name {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $name(ByteString);

        impl $name {
            /// The name as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }

            /// The name in the form that messages carry.
            pub fn into_inner(self) -> ByteString {
                self.0
            }

            /// The name in the form that messages carry, sharing its bytes.
            pub fn to_byte_string(&self) -> ByteString {
                self.0.clone()
            }
        }

        impl<T: Into<ByteString>> From<T> for $name {
            fn from(name: T) -> Self {
                Self(name.into())
            }
        }

        impl std::borrow::Borrow<str> for $name {
            fn borrow(&self) -> &str {
                &self.0
            }
        }

        impl std::ops::Deref for $name {
            type Target = str;
            fn deref(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Debug::fmt(self.as_str(), f)
            }
        }
    };
}

name!(
    /// Name of a topic; cheap to clone.
    TopicName
);
name!(
    /// Id of a consumer group.
    GroupId
);

impl TopicName {
    /// What is wrong with the name by Kafka's rule: 1 to 249 of `[a-zA-Z0-9._-]`, neither `.` nor `..`.
    #[cfg_attr(
        not(feature = "client"),
        allow(dead_code, reason = "who only decodes takes names as they come")
    )]
    pub(crate) fn fault(&self) -> Option<&'static str> {
        let legal = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
        match self.as_str() {
            "" => Some("is empty"),
            "." | ".." => Some("may not be . or .."),
            name if name.len() > 249 => Some("is longer than 249 characters"),
            name if !name.chars().all(legal) => {
                Some("has characters other than letters, digits, '.', '_' and '-'")
            }
            _ => None,
        }
    }
}

impl GroupId {
    /// What is wrong with the id: the protocol has room for 32,767 bytes, and the empty one belongs to nobody.
    #[cfg_attr(not(feature = "client"), allow(dead_code, reason = "who only decodes takes ids as they come"))]
    pub(crate) fn fault(&self) -> Option<&'static str> {
        match self.len() {
            0 => Some("is empty"),
            len if i16::try_from(len).is_err() => Some("is longer than 32,767 bytes"),
            _ => None,
        }
    }
}
name!(
    /// Id of a member of a group, given by the group coordinator (classic) or by the member (KIP-848).
    MemberId
);

macro_rules! number {
    ($(#[$doc:meta])* $name:ident($inner:ty)) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $name(pub $inner);

        impl From<$inner> for $name {
            fn from(value: $inner) -> Self {
                Self(value)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(&self.0, f)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({})"), self.0)
            }
        }
    };
}

number!(
    /// Index of a partition within its topic.
    Partition(i32)
);
number!(
    /// Position of a record in its partition. Offsets are of this type in everything public; only the structs of [`wire`](crate::wire)
    /// that stand for bytes have the bare numbers of the protocol.
    Offset(i64)
);
number!(
    /// Epoch of a partition's leader (KIP-101); -1 where unknown.
    LeaderEpoch(i32)
);
number!(
    /// Id of a broker.
    NodeId(i32)
);
number!(
    /// Id of an idempotent or transactional producer (KIP-98); -1 for none.
    ProducerId(i64)
);
number!(
    /// Milliseconds since the Unix epoch; -1 for none.
    Timestamp(i64)
);

impl LeaderEpoch {
    /// The epoch is not known.
    pub const UNKNOWN: Self = Self(-1);
}

/// A partition of a topic.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TopicPartition {
    /// The topic.
    pub topic: TopicName,
    /// The partition.
    pub partition: Partition,
}

impl TopicPartition {
    /// Partition `partition` of `topic`.
    pub fn new(topic: impl Into<TopicName>, partition: impl Into<Partition>) -> Self {
        Self { topic: topic.into(), partition: partition.into() }
    }
}

impl fmt::Display for TopicPartition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}[{}]", self.topic, self.partition)
    }
}

impl fmt::Debug for TopicPartition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}
