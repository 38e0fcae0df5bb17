//! Kafka versions and what differs between them.

use std::fmt;
use std::str::FromStr;

/// A released version, `major.minor.patch`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Version {
    major: u16,
    minor: u16,
    patch: u16,
}

/// The oldest version that carafe speaks to.
const FIRST: Version = Version { major: 2, minor: 1, patch: 0 };

/// From here on the artifact is built for Scala 2.13, and brings a ZooKeeper that understands addresses of Java 14 and
/// newer.
const FIRST_SCALA_2_13: Version = Version { major: 2, minor: 4, patch: 0 };

/// The first version whose combined nodes run without ZooKeeper in production quality.
const FIRST_KRAFT: Version = Version { major: 3, minor: 3, patch: 0 };

/// From here on Kafka logs through Log4j 2.
const FIRST_LOG4J2: Version = Version { major: 4, minor: 0, patch: 0 };

impl Version {
    /// Major and minor number.
    pub(super) fn release(self) -> String {
        format!("{}.{}", self.major, self.minor)
    }

    /// The broker's artifact.
    pub(super) fn artifact(self) -> &'static str {
        if self >= FIRST_SCALA_2_13 { "kafka_2.13" } else { "kafka_2.12" }
    }

    /// Whether the nodes need ZooKeeper.
    pub(super) fn needs_zookeeper(self) -> bool {
        self < FIRST_KRAFT
    }

    /// Whether the ZooKeeper that comes with it is too old for the Java runtime.
    pub(super) fn needs_newer_zookeeper(self) -> bool {
        self < FIRST_SCALA_2_13
    }

    /// Whether Kafka logs through Log4j 2 (else through reload4j).
    pub(super) fn logs_with_log4j2(self) -> bool {
        self >= FIRST_LOG4J2
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.major, self.minor, self.patch)
    }
}

impl FromStr for Version {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut parts = text.split('.').map(|part| {
            let digits = !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
            part.parse::<u16>().ok().filter(|_| digits)
        });
        let (Some(Some(major)), Some(Some(minor)), Some(Some(patch)), None) =
            (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err("a Kafka version has three numbers, such as 4.3.1".into());
        };
        let version = Self { major, minor, patch };
        if version < FIRST {
            return Err(format!("{version} is older than {FIRST}, the oldest version that carafe speaks to"));
        }
        Ok(version)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn three_numbers() {
        for text in ["4.3.1", "3.9.2", "2.1.1", "10.0.12"] {
            assert_eq!(text.parse::<Version>().map(|version| version.to_string()), Ok(text.to_owned()));
        }
        for text in ["", "4", "4.3", "4.3.1.0", "4.3.x", "4..1", "+4.3.1", "4.3.99999", "4.3.1-rc0", "2.0.1"]
        {
            assert!(text.parse::<Version>().is_err(), "{text}");
        }
    }

    #[test]
    fn zookeeper_until_3_2() {
        let needs = |text: &str| text.parse::<Version>().unwrap().needs_zookeeper();
        assert!(needs("2.1.1") && needs("3.2.3") && !needs("3.3.0"));
    }

    #[test]
    fn logging_changed_in_4() {
        assert!(!"3.9.2".parse::<Version>().unwrap().logs_with_log4j2());
        assert!("4.0.0".parse::<Version>().unwrap().logs_with_log4j2());
    }
}
