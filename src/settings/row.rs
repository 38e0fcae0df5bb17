//! One row: a setting with its names, kind and text, and the way to its field.

use std::time::Duration;

use super::Problems;
use super::nearest::suggestion;
use super::words::Words;
use crate::types::Secret;

/// A setting of `C`.
pub(crate) struct Row<C> {
    /// Java's name where Java has the setting, else librdkafka's, else our own.
    pub(crate) name: &'static str,
    /// Other names, usually librdkafka's.
    pub(crate) aliases: &'static [&'static str],
    pub(crate) kind: Kind,
    /// What it is, for people.
    pub(crate) text: &'static str,
    /// Sets it to what a text says; false if the text says nothing.
    pub(crate) set: fn(&mut C, &str) -> bool,
    /// Its value; `None` if it is not set, or if it is another way to set others.
    pub(crate) get: fn(&C) -> Option<Shown>,
}

/// The kind of a setting's values, with their bounds.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Kind {
    Text,
    /// Text that is never shown.
    Hidden,
    /// True or false.
    Flag,
    /// Milliseconds, from and to.
    Millis(i64, i64),
    /// Bytes, from and to.
    Bytes(i64, i64),
    /// A number, from and to.
    Number(i64, i64),
    /// One of some words.
    Word(fn() -> Vec<&'static str>),
    /// Some of some words, separated by commas.
    List(fn() -> Vec<&'static str>),
    /// Refused because of the row's text, unless the value is one of these: they say what happens anyway.
    Refused(&'static [&'static str]),
    /// Refused because of the row's text; values are never shown.
    Secret,
}

/// A value as it is compared with bounds and shown.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Shown {
    Number(i128),
    Text(String),
}

impl std::fmt::Display for Shown {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Number(number) => number.fmt(f),
            Self::Text(text) => text.fmt(f),
        }
    }
}

impl Kind {
    /// Least and largest number, and their unit.
    pub(crate) fn bounds(&self) -> Option<(i64, i64, &'static str)> {
        match *self {
            Self::Millis(min, max) => Some((min, max, " ms")),
            Self::Bytes(min, max) => Some((min, max, " bytes")),
            Self::Number(min, max) => Some((min, max, "")),
            _ => None,
        }
    }

    /// What values there are, for people.
    pub(crate) fn range(&self) -> String {
        match self {
            Self::Text => "text".to_owned(),
            Self::Hidden => "text, never shown".to_owned(),
            Self::Flag => "true or false".to_owned(),
            Self::Word(words) => format!("one of {}", words().join(", ")),
            Self::List(words) => format!("some of {}", words().join(", ")),
            Self::Refused([]) | Self::Secret => String::new(),
            Self::Refused(accepted) => format!("only {}", accepted.join(" or ")),
            Self::Millis(..) | Self::Bytes(..) | Self::Number(..) => match self.bounds() {
                Some((min, i64::MAX, unit)) => format!("{min} or more{unit}"),
                Some((min, max, unit)) => format!("{min} to {max}{unit}"),
                None => String::new(),
            },
        }
    }

    fn admits(&self, number: i128) -> bool {
        self.bounds().is_none_or(|(min, max, _)| {
            number >= i128::from(min) && (number <= i128::from(max) || max == i64::MAX)
        })
    }
}

impl<C> Row<C> {
    /// A setting that has no meaning here, unless its value says what happens anyway.
    pub(crate) const fn refused(
        name: &'static str,
        aliases: &'static [&'static str],
        accepted: &'static [&'static str],
        text: &'static str,
    ) -> Self {
        Self { name, aliases, kind: Kind::Refused(accepted), text, set: |_, _| true, get: |_| None }
    }

    /// A secret without a meaning here.
    pub(crate) const fn secret(name: &'static str, text: &'static str) -> Self {
        Self { name, aliases: &[], kind: Kind::Secret, text, set: |_, _| true, get: |_| None }
    }

    /// Another way to set what other rows hold.
    pub(crate) const fn other(
        name: &'static str,
        kind: Kind,
        text: &'static str,
        set: fn(&mut C, &str) -> bool,
    ) -> Self {
        Self { name, aliases: &[], kind, text, set, get: |_| None }
    }

    /// All names.
    pub(crate) fn names(&self) -> impl Iterator<Item = &'static str> + use<C> {
        std::iter::once(self.name).chain(self.aliases.iter().copied())
    }

    /// Sets it to what `text` says, or says what is wrong with that, without the setting's name.
    pub(crate) fn apply(&self, config: &mut C, text: &str) -> Result<(), String> {
        let text = text.trim();
        let good = match self.kind {
            Kind::Secret | Kind::Refused([]) => return Err(format!("is not supported: {}", self.text)),
            Kind::Refused(accepted) => {
                if accepted.iter().any(|accepted| accepted.eq_ignore_ascii_case(text)) {
                    return Ok(());
                }
                let accepted = accepted.join(" or ");
                return Err(format!("{text:?} is not supported, only {accepted}: {}", self.text));
            }
            Kind::Millis(..) | Kind::Bytes(..) | Kind::Number(..) => {
                text.parse().is_ok_and(|number: i128| self.kind.admits(number))
            }
            Kind::Text | Kind::Hidden | Kind::Flag | Kind::Word(_) | Kind::List(_) => true,
        };
        if good && (self.set)(config, text) {
            return Ok(());
        }
        let near = if let Kind::Word(words) = self.kind { suggestion(text, words()) } else { String::new() };
        Err(format!("{text:?} is not valid: use {}{near}", self.kind.range()))
    }

    /// Notes if the value is out of bounds.
    pub(crate) fn check(&self, config: &C, problems: &mut Problems) {
        if let Some(Shown::Number(number)) = (self.get)(config)
            && !self.kind.admits(number)
        {
            problems.add(self.name, format!("{number} is not valid: use {}", self.kind.range()));
        }
    }
}

/// A type that fields of settings have.
pub(crate) trait Value: Sized {
    /// What a text says.
    fn read(text: &str) -> Option<Self>;
    /// The value, if there is one.
    fn shown(&self) -> Option<Shown>;
}

/// The kind of a type whose values are words.
pub(crate) trait Named: Value {
    const KIND: Kind;
}

impl<W: Words> Value for W {
    fn read(text: &str) -> Option<Self> {
        Self::of(text)
    }

    fn shown(&self) -> Option<Shown> {
        Some(Shown::Text(self.word().to_owned()))
    }
}

impl<W: Words> Named for W {
    const KIND: Kind = Kind::Word(Self::words);
}

impl Value for bool {
    fn read(text: &str) -> Option<Self> {
        match text.to_ascii_lowercase().as_str() {
            "true" | "1" | "t" => Some(true),
            "false" | "0" | "f" => Some(false),
            _ => None,
        }
    }

    fn shown(&self) -> Option<Shown> {
        Some(Shown::Text(self.to_string()))
    }
}

impl Value for String {
    fn read(text: &str) -> Option<Self> {
        Some(text.to_owned())
    }

    fn shown(&self) -> Option<Shown> {
        Some(Shown::Text(self.clone()))
    }
}

impl Value for Secret {
    fn read(text: &str) -> Option<Self> {
        Some(Self::from(text))
    }

    fn shown(&self) -> Option<Shown> {
        None
    }
}

impl Value for Duration {
    fn read(text: &str) -> Option<Self> {
        text.parse().ok().map(Self::from_millis)
    }

    fn shown(&self) -> Option<Shown> {
        Some(Shown::Number(i128::try_from(self.as_millis()).unwrap_or(i128::MAX)))
    }
}

macro_rules! numbers {
    ($($number:ty),*) => {$(
        impl Value for $number {
            fn read(text: &str) -> Option<Self> {
                text.parse().ok()
            }

            fn shown(&self) -> Option<Shown> {
                i128::try_from(*self).ok().map(Shown::Number)
            }
        }
    )*};
}

numbers!(usize, i32);

impl<V: Value> Value for Option<V> {
    fn read(text: &str) -> Option<Self> {
        V::read(text).map(Some)
    }

    fn shown(&self) -> Option<Shown> {
        self.as_ref()?.shown()
    }
}
