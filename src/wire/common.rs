//! What the bodies of Produce and Fetch have in common: how they name topics, and what answers say about leaders
//! (KIP-951), so that a client need not ask for metadata.

use super::error::{At, Fault};
use super::{DecodeErrorKind, Reader, Str, Uuid};

/// Id of a topic, or the name that stands in the field `name`.
pub(crate) fn read_topic(
    r: &mut Reader,
    by_id: bool,
    flexible: bool,
    name: &'static str,
) -> Result<(Str, Uuid), Fault<DecodeErrorKind>> {
    if by_id {
        Ok((Str::new(), r.uuid().at("topic_id")?))
    } else {
        Ok((r.str(flexible).at(name)?, Uuid::ZERO))
    }
}

/// Bytes of a topic without partitions and, by name, without name.
pub(crate) fn topic_len_min(by_id: bool, flexible: bool) -> usize {
    match (by_id, flexible) {
        (true, _) => 16 + 1 + 1,
        (false, true) => 1 + 1 + 1,
        (false, false) => 2 + 4,
    }
}

/// The leader of a partition as the answering broker knows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct CurrentLeader {
    /// Node id of the leader.
    pub leader_id: i32,
    /// Its epoch.
    pub leader_epoch: i32,
}

impl CurrentLeader {
    /// `None` if the broker does not know.
    pub(crate) fn read(r: &mut Reader) -> Result<Option<Self>, Fault<DecodeErrorKind>> {
        let leader_id = r.i32().at("leader_id")?;
        let leader_epoch = r.i32().at("leader_epoch")?;
        r.skip_tagged()?;
        Ok((leader_id >= 0).then_some(Self { leader_id, leader_epoch }))
    }
}

/// Where to reach a leader that the same answer names.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct NodeEndpoint {
    /// Node id.
    pub node_id: i32,
    /// Host name or address.
    pub host: Str,
    /// Port.
    pub port: i32,
    /// Rack, if the node has one.
    pub rack: Option<Str>,
}

impl NodeEndpoint {
    pub(crate) fn read(r: &mut Reader) -> Result<Self, Fault<DecodeErrorKind>> {
        let endpoint = Self {
            node_id: r.i32().at("node_id")?,
            host: r.str(true).at("host")?,
            port: r.i32().at("port")?,
            rack: r.nullable_str(true).at("rack")?,
        };
        r.skip_tagged()?;
        Ok(endpoint)
    }

    pub(crate) fn read_all(r: &mut Reader) -> Result<Vec<Self>, Fault<DecodeErrorKind>> {
        // node id, empty host, port, null rack, no tags
        let endpoints = r.nullable_vec(true, 4 + 1 + 4 + 1 + 1, Self::read).at("node_endpoints")?;
        Ok(endpoints.unwrap_or_default())
    }
}

/// The broker's side.
#[cfg(any(test, feature = "both-directions"))]
mod serve {
    use bytes::{BufMut, BytesMut};

    use super::*;
    use crate::wire::EncodeErrorKind;
    use crate::wire::codec::{Tags, put_nullable_str, put_str};
    use crate::wire::segments::{put_count, put_no_tags};

    impl CurrentLeader {
        pub(crate) fn write(&self, w: &mut BytesMut) {
            w.put_i32(self.leader_id);
            w.put_i32(self.leader_epoch);
            put_no_tags(w, true);
        }
    }

    impl NodeEndpoint {
        /// As a tagged field, unless there is none.
        pub(crate) fn write_all(
            endpoints: &[Self],
            tag: u32,
            tags: &mut Tags,
        ) -> Result<(), Fault<EncodeErrorKind>> {
            if endpoints.is_empty() {
                return Ok(());
            }
            tags.field(tag, "node_endpoints", |w| {
                put_count(w, endpoints.len(), true);
                for endpoint in endpoints {
                    w.put_i32(endpoint.node_id);
                    put_str(w, &endpoint.host, true).at("host")?;
                    w.put_i32(endpoint.port);
                    put_nullable_str(w, endpoint.rack.as_ref(), true).at("rack")?;
                    put_no_tags(w, true);
                }
                Ok(())
            })
        }
    }
}
