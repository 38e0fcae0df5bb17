//! Everything that is wrong with settings, reported at once.

use std::fmt::{Display, Write};

use crate::{Error, ErrorKind, Result};

/// A list of problems.
#[derive(Debug, Default)]
pub(crate) struct Problems(Vec<String>);

impl Problems {
    /// Notes that `setting` is wrong; `what` says why and what is right.
    pub(crate) fn add(&mut self, setting: &str, what: impl Display) {
        self.0.push(format!("{setting}: {what}"));
    }

    /// Notes a problem that names its setting itself.
    pub(crate) fn note(&mut self, problem: impl Into<String>) {
        self.0.push(problem.into());
    }

    /// Notes a problem unless `ok`.
    pub(crate) fn check(&mut self, ok: bool, setting: &str, what: impl Display) {
        if !ok {
            self.add(setting, what);
        }
    }

    /// `value`, unless there are problems.
    ///
    /// # Errors
    ///
    /// `Config`, which lists all of them.
    pub(crate) fn finish<T>(self, value: T) -> Result<T> {
        match self.0.as_slice() {
            [] => Ok(value),
            [only] => Err(Error::new(ErrorKind::Config, format!("a setting is wrong: {only}"))),
            all => {
                let mut message = format!("{} settings are wrong:", all.len());
                for problem in all {
                    let _ = write!(message, "\n  {problem}");
                }
                Err(Error::new(ErrorKind::Config, message))
            }
        }
    }
}
