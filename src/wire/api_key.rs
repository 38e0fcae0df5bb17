//! The APIs of the protocol, and which versions of them this crate speaks.

use std::fmt;

use super::VersionRange;
use super::messages::APIS;
use super::releases::{OFFERED, RELEASES};

/// Number of an API. Unknown ones survive a round trip.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ApiKey(pub i16);

/// What is known about an API.
pub(crate) struct Api {
    pub(crate) name: &'static str,
    /// Stable versions that this crate has messages for.
    pub(crate) versions: Option<VersionRange>,
    /// First flexible version, `i16::MAX` without one.
    pub(crate) flexible: i16,
    /// See [`ApiKey::throttle`].
    #[cfg_attr(not(feature = "client"), allow(dead_code, reason = "only clients are throttled"))]
    pub(crate) throttle: Option<(usize, i16)>,
}

impl ApiKey {
    fn api(self) -> Option<&'static Api> {
        APIS.get(usize::try_from(self.0).ok()?)
    }

    /// Kafka's name of the API, such as `Metadata`; `None` if it is not known.
    pub fn name(self) -> Option<&'static str> {
        self.api().map(|api| api.name)
    }

    /// The stable versions that this crate speaks; `None` for APIs that no broker offers to clients any more or
    /// that only controllers serve.
    pub fn versions(self) -> Option<VersionRange> {
        self.api()?.versions
    }

    /// Where the body of a response has `throttle_time_ms`, and the first version in which the client is expected to pause
    /// (KIP-219); `None` where the place depends on what lies before it.
    #[cfg(feature = "client")]
    pub(crate) fn throttle(self) -> Option<(usize, i16)> {
        self.api()?.throttle
    }

    /// All APIs that this crate speaks, in ascending order.
    pub fn all() -> impl Iterator<Item = (Self, VersionRange)> {
        (0..).zip(APIS).filter_map(|(key, api)| Some((Self(key), api.versions?)))
    }

    /// The versions that a broker of this release of Apache Kafka offers, of all it may be set up to do; `release` is one
    /// of [`RELEASES`], such as `2.8`.
    pub fn offered_by(self, release: &str) -> Option<VersionRange> {
        let index = RELEASES.iter().position(|known| *known == release)?;
        let mut offers = self.offers().iter().rev();
        let (_, min, max) = offers.find(|(since, ..)| RELEASES[..=index].contains(since))?;
        (min <= max).then_some(VersionRange::new(*min, *max))
    }

    /// The first of [`RELEASES`] whose brokers offer one of `versions`.
    pub fn since(self, versions: VersionRange) -> Option<&'static str> {
        let mut offers = self.offers().iter();
        let fits = |min, max| min <= max && versions.intersect(VersionRange::new(min, max)).is_some();
        offers.find(|(_, min, max)| fits(*min, *max)).map(|(since, ..)| *since)
    }

    fn offers(self) -> &'static [(&'static str, i16, i16)] {
        usize::try_from(self.0).ok().and_then(|key| OFFERED.get(key)).copied().unwrap_or_default()
    }

    /// True if `version` of the API uses compact lengths and tagged fields.
    pub fn is_flexible(self, version: i16) -> bool {
        self.api().is_some_and(|api| version >= api.flexible)
    }

    /// Version of the header in front of a request: 2 for flexible versions, otherwise 1; version 0 of
    /// ControlledShutdown alone has header 0.
    pub fn request_header_version(self, version: i16) -> i16 {
        match self {
            Self::CONTROLLED_SHUTDOWN if version == 0 => 0,
            _ => 1 + i16::from(self.is_flexible(version)),
        }
    }

    /// Version of the header in front of a response: 1 for flexible versions, otherwise 0. ApiVersions always has
    /// header 0, because its answer is read before versions are known.
    pub fn response_header_version(self, version: i16) -> i16 {
        match self {
            Self::API_VERSIONS => 0,
            _ => i16::from(self.is_flexible(version)),
        }
    }
}

impl fmt::Display for ApiKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.name() {
            Some(name) => f.pad(name),
            None => write!(f, "API {}", self.0),
        }
    }
}

impl fmt::Debug for ApiKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.name() {
            Some(name) => write!(f, "{name} ({})", self.0),
            None => write!(f, "ApiKey({})", self.0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn header_versions() {
        assert_eq!(ApiKey::METADATA.request_header_version(8), 1);
        assert_eq!(ApiKey::METADATA.request_header_version(9), 2);
        assert_eq!(ApiKey::METADATA.response_header_version(8), 0);
        assert_eq!(ApiKey::METADATA.response_header_version(9), 1);
        assert_eq!(ApiKey::API_VERSIONS.request_header_version(3), 2);
        assert_eq!(ApiKey::API_VERSIONS.response_header_version(3), 0);
        assert_eq!(ApiKey::CONTROLLED_SHUTDOWN.request_header_version(0), 0);
        assert_eq!(ApiKey::SASL_HANDSHAKE.request_header_version(1), 1);
    }

    #[test]
    fn versions_are_the_stable_ones() {
        assert_eq!(ApiKey::INIT_PRODUCER_ID.versions(), Some(VersionRange::new(0, 5)));
        assert_eq!(ApiKey::OFFSET_COMMIT.versions(), Some(VersionRange::new(2, 10)));
        assert_eq!(ApiKey::LEADER_AND_ISR.versions(), None);
        assert_eq!(ApiKey(-1).versions(), None);
        assert_eq!(ApiKey(9999).to_string(), "API 9999");
        assert_eq!(format!("{:?}", ApiKey::FETCH), "Fetch (1)");
        assert_eq!(ApiKey::all().next(), Some((ApiKey::PRODUCE, VersionRange::new(3, 13))));
    }
}
