//! Settings: one row for each, from which everything else is made.
//!
//! * [`settings!`]: declares a struct of settings by rows. A row has the setting's text, names, type, default and bounds;
//!   from it come the field, its default, its setter with documentation, the check, the loaders and a line of
//!   `docs/configuration.md`.
//! * `row`: what a row is once it is data: [`Row`], [`Kind`], and how a text becomes a value.
//! * `words`: types whose values are words.
//! * `load`: properties, environment, and which of them overrides which.
//! * `problems`: collects what is wrong.
//! * `nearest`: the known name that a wrong one was meant to be.

#[cfg(feature = "client")]
pub(crate) mod load;
pub(crate) mod nearest;
#[cfg(feature = "client")]
mod problems;
#[cfg(feature = "client")]
mod row;
pub(crate) mod words;

#[cfg(feature = "client")]
pub(crate) use problems::Problems;
#[cfg(feature = "client")]
pub(crate) use row::{Kind, Named, Row, Shown, Value};
pub(crate) use words::Words;

/// No upper bound: a setting may be as large as its type, which for a time means for ever.
#[cfg(feature = "client")]
pub(crate) const UNBOUNDED: i64 = i64::MAX;

/// A struct of settings that was declared by rows.
#[cfg(feature = "client")]
pub(crate) trait Table: Clone + 'static {
    /// What its settings are named below, in properties and in problems; empty for those of the client.
    const SCOPE: &'static str;
    /// The rows, in the order in which they are applied.
    const ROWS: &'static [&'static [Row<Self>]];

    /// All rows.
    fn rows() -> impl Iterator<Item = &'static Row<Self>> {
        Self::ROWS.iter().copied().flatten()
    }

    /// Notes what does not go together.
    fn check_together(&self, problems: &mut Problems);

    /// Notes everything that is wrong: values out of bounds, and what does not go together.
    fn check(&self, problems: &mut Problems) {
        let check = |problems: &mut Problems| {
            Self::rows().for_each(|row| row.check(self, problems));
            self.check_together(problems);
        };
        match Self::SCOPE {
            "" => check(problems),
            scope => problems.within(scope, check),
        }
    }
}

/// Declares settings: `field: kind = default, bounds => "name" | "other name";`, the text above it.
///
/// Kinds are `ms` (a [`Duration`](std::time::Duration)), `bytes`, `count`, `number`, `flag`, `text`, `secret` (a text that is never
/// shown), or a type that is [named](crate::settings::Named), such as those whose values are [words](crate::settings::Words). The default is a number in the kind's unit, a flag, a text, a value of the type, or
/// `unset`, which makes the field an `Option`. `read` names a function that reads a property its own way. `others` are rows that have no field: other ways to set what fields hold,
/// and settings that are refused.
#[cfg(feature = "client")]
macro_rules! settings {
    (
        $(#[$about:meta])*
        pub struct $Config:ident in $scope:literal, others $others:expr;
        $(
            $(#[doc = $text:literal])+
            $field:ident: $kind:ident = $default:tt $(, $min:literal..=$max:tt)? $(, read $read:path)?
                => $name:literal $(| $alias:literal)*;
        )*
    ) => {
        $(#[$about])*
        #[derive(Clone, Debug, PartialEq)]
        pub struct $Config {
            $(pub(crate) $field: $crate::settings::settings!(@type $kind $default),)*
        }

        impl Default for $Config {
            fn default() -> Self {
                Self { $($field: $crate::settings::settings!(@default $kind $default),)* }
            }
        }

        impl $Config {
            /// The defaults.
            #[must_use]
            pub fn new() -> Self {
                Self::default()
            }

            /// Everything that is wrong: one sentence for each problem, behind the name of its setting.
            pub fn problems(&self) -> Vec<String> {
                let mut problems = $crate::settings::Problems::default();
                $crate::settings::Table::check(self, &mut problems);
                problems.into_vec()
            }

            /// The value of the setting that has this name in properties, as a property; `None` if it is not set, or if there is no
            /// such setting.
            pub fn get(&self, name: &str) -> Option<String> {
                let mut rows = <Self as $crate::settings::Table>::rows();
                let row = rows.find(|row| row.names().any(|known| known == name))?;
                (row.get)(self).map(|value| value.to_string())
            }

            $(
                $(#[doc = $text])+
                #[doc = ""]
                #[doc = concat!("* Property `", $name, "`" $(, ", `", $alias, "`")*)]
                #[doc = concat!("* Default `", stringify!($default), "`", $crate::settings::settings!(@unit $kind)
                    $(, ", from `", stringify!($min), "` to `", stringify!($max), "`")?)]
                #[must_use]
                pub fn $field(mut self, $field: $crate::settings::settings!(@argument $kind $default)) -> Self {
                    self.$field = $field.into();
                    self
                }
            )*
        }

        impl $crate::settings::Table for $Config {
            const SCOPE: &'static str = $scope;
            const ROWS: &'static [&'static [$crate::settings::Row<Self>]] = &[
                $others,
                &[$($crate::settings::Row {
                    name: $name,
                    aliases: &[$($alias),*],
                    kind: $crate::settings::settings!(@kind $kind $($min, $max)?),
                    text: concat!($($text, "\n"),+),
                    set: |config, text| match $crate::settings::settings!(@read $($read)?)(text) {
                        Some(value) => {
                            config.$field = value;
                            true
                        }
                        None => false,
                    },
                    get: |config| $crate::settings::Value::shown(&config.$field),
                }),*],
            ];

            fn check_together(&self, problems: &mut $crate::settings::Problems) {
                Self::check_together(self, problems);
            }
        }
    };

    (@type ms unset) => { Option<std::time::Duration> };
    (@type ms $default:tt) => { std::time::Duration };
    (@type count unset) => { Option<usize> };
    (@type bytes $default:tt) => { usize };
    (@type count $default:tt) => { usize };
    (@type number unset) => { Option<i32> };
    (@type flag $default:tt) => { bool };
    (@type text $default:tt) => { String };
    (@type secret $default:tt) => { $crate::types::Secret };
    (@type $Type:ident $default:tt) => { $Type };

    (@argument ms unset) => { impl Into<Option<std::time::Duration>> };
    (@argument count unset) => { impl Into<Option<usize>> };
    (@argument number unset) => { impl Into<Option<i32>> };
    (@argument text $default:tt) => { impl Into<String> };
    (@argument secret $default:tt) => { impl Into<$crate::types::Secret> };
    (@argument ms $default:tt) => { std::time::Duration };
    (@argument bytes $default:tt) => { usize };
    (@argument count $default:tt) => { usize };
    (@argument flag $default:tt) => { bool };
    (@argument $Type:ident $default:tt) => { impl Into<$Type> };

    (@default $kind:ident unset) => { None };
    (@default ms $default:tt) => { std::time::Duration::from_millis($default) };
    (@default bytes $default:tt) => { $default };
    (@default count $default:tt) => { $default };
    (@default flag $default:tt) => { $default };
    (@default text $default:tt) => { String::from($default) };
    (@default secret $default:tt) => { $crate::types::Secret::from($default) };
    (@default $Type:ident $default:tt) => { $Type::$default };

    (@kind ms $min:literal, $max:tt) => { $crate::settings::Kind::Millis($min, $max) };
    (@kind bytes $min:literal, $max:tt) => { $crate::settings::Kind::Bytes($min, $max) };
    (@kind count $min:literal, $max:tt) => { $crate::settings::Kind::Number($min, $max) };
    (@kind number $min:literal, $max:tt) => { $crate::settings::Kind::Number($min, $max) };
    (@kind flag) => { $crate::settings::Kind::Flag };
    (@kind text) => { $crate::settings::Kind::Text };
    (@kind secret) => { $crate::settings::Kind::Hidden };
    (@kind $Type:ident) => { <$Type as $crate::settings::Named>::KIND };

    (@read) => { $crate::settings::Value::read };
    (@read $read:path) => { $read };

    (@unit ms) => { " ms" };
    (@unit bytes) => { " bytes" };
    (@unit $kind:ident) => { "" };
}

#[cfg(feature = "client")]
pub(crate) use settings;
