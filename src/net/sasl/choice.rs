//! Which mechanism a client uses: one by its name, whose credentials are settings, or one that was handed over.

use std::fmt;
use std::sync::Arc;

use super::exchange::Mechanism;
use crate::settings::{Kind, Named, Shown, Value};

/// Which mechanism a client uses: a name such as `"SCRAM-SHA-512"`, whose credentials are other settings, or a [`Mechanism`].
///
/// ```
/// use carafe::client::{ClientConfig, sasl::Plain};
///
/// let by_name = ClientConfig::new().sasl_mechanism("PLAIN").sasl_username("alice").sasl_password("secret");
/// let as_value = ClientConfig::new().sasl_mechanism(Plain::new("alice", "secret"));
/// ```
#[derive(Clone, Default)]
pub struct Choice(pub(crate) Chosen);

#[derive(Clone, Default)]
pub(crate) enum Chosen {
    #[default]
    Nothing,
    Named(String),
    Given(Arc<dyn Mechanism>),
}

impl Choice {
    /// No mechanism is named.
    pub(crate) const NONE: Self = Self(Chosen::Nothing);

    /// True if a mechanism was handed over.
    pub(crate) fn is_given(&self) -> bool {
        matches!(self.0, Chosen::Given(_))
    }
}

impl fmt::Debug for Choice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Chosen::Nothing => f.write_str("None"),
            Chosen::Named(name) => name.fmt(f),
            Chosen::Given(mechanism) => mechanism.fmt(f),
        }
    }
}

impl PartialEq for Choice {
    fn eq(&self, other: &Self) -> bool {
        match (&self.0, &other.0) {
            (Chosen::Nothing, Chosen::Nothing) => true,
            (Chosen::Named(a), Chosen::Named(b)) => a == b,
            (Chosen::Given(a), Chosen::Given(b)) => Arc::ptr_eq(a, b),
            _ => false,
        }
    }
}

impl From<&str> for Choice {
    fn from(name: &str) -> Self {
        Self(if name.is_empty() { Chosen::Nothing } else { Chosen::Named(name.to_owned()) })
    }
}

impl From<String> for Choice {
    fn from(name: String) -> Self {
        Self::from(name.as_str())
    }
}

impl<M: Mechanism> From<M> for Choice {
    fn from(mechanism: M) -> Self {
        Self(Chosen::Given(Arc::new(mechanism)))
    }
}

impl Value for Choice {
    fn read(text: &str) -> Option<Self> {
        Some(Self::from(text))
    }

    fn shown(&self) -> Option<Shown> {
        match &self.0 {
            Chosen::Nothing => None,
            Chosen::Named(name) => Some(Shown::Text(name.clone())),
            Chosen::Given(mechanism) => Some(Shown::Text(mechanism.name().to_owned())),
        }
    }
}

impl Named for Choice {
    const KIND: Kind = Kind::Text;
}
