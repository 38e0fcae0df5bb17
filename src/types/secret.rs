//! Passwords, tokens and keys.

use std::fmt;
use std::sync::Arc;

/// A password, a token or a key. It prints as `[hidden]` and nothing else, compares in a time that tells nothing of the
/// content, and is shared when it is cloned.
///
/// ```
/// use carafe::types::Secret;
///
/// let password = Secret::from("hunter2");
/// assert_eq!(format!("{password:?} {password}"), "[hidden] [hidden]");
/// assert_eq!(password.expose(), "hunter2");
/// ```
#[derive(Clone)]
pub struct Secret(Arc<str>);

impl Secret {
    /// The content. What is done with it from here on is up to the caller.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl<T: Into<Arc<str>>> From<T> for Secret {
    fn from(text: T) -> Self {
        Self(text.into())
    }
}

impl PartialEq for Secret {
    fn eq(&self, other: &Self) -> bool {
        is_same(self.0.as_bytes(), other.0.as_bytes())
    }
}

/// Compares in a time that tells nothing of where they differ.
pub(crate) fn is_same(a: &[u8], b: &[u8]) -> bool {
    let differ = a.iter().zip(b).fold(0, |differ, (a, b)| differ | (a ^ b));
    a.len() == b.len() && std::hint::black_box(differ) == 0
}

impl Eq for Secret {}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[hidden]")
    }
}

impl fmt::Display for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[hidden]")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_compare_by_content() {
        let secret = Secret::from("hunter2");
        assert_eq!(secret, Secret::from("hunter2".to_owned()));
        for other in ["", "hunter", "hunter3", "hunter22"] {
            assert_ne!(secret, Secret::from(other));
        }
    }
}
