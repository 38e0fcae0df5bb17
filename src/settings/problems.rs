//! Everything that is wrong with settings, reported at once.

use std::fmt::{Display, Write};

use crate::{Error, ErrorKind, Result};

/// A list of problems, each with the dotted path of its setting.
#[derive(Debug, Default)]
pub(crate) struct Problems {
    found: Vec<String>,
    /// Where we are: what settings are named below.
    path: String,
}

impl Problems {
    /// Notes that the setting `name` is wrong; `what` says why and what is right. Without a name the problem is that of
    /// the path itself.
    pub(crate) fn add(&mut self, name: &str, what: impl Display) {
        let dot = if self.path.is_empty() || name.is_empty() { "" } else { "." };
        let problem = match (self.path.as_str(), name) {
            ("", "") => what.to_string(),
            (path, name) => format!("{path}{dot}{name}: {what}"),
        };
        self.note(problem);
    }

    /// Notes a problem unless `ok`.
    pub(crate) fn check(&mut self, ok: bool, name: &str, what: impl Display) {
        if !ok {
            self.add(name, what);
        }
    }

    /// Takes over problems that name their settings; the path is put in front of the names.
    #[cfg_attr(not(feature = "app"), allow(dead_code, reason = "applications check what they hand on"))]
    pub(crate) fn extend(&mut self, problems: impl IntoIterator<Item = String>) {
        for problem in problems {
            let path = &self.path;
            let problem = if path.is_empty() { problem } else { format!("{path}.{problem}") };
            self.note(problem);
        }
    }

    /// Notes what `check` finds below `path`.
    pub(crate) fn within(&mut self, path: impl Display, check: impl FnOnce(&mut Self)) {
        let outside = self.path.len();
        let dot = if outside == 0 { "" } else { "." };
        let _ = write!(self.path, "{dot}{path}");
        check(self);
        self.path.truncate(outside);
    }

    /// What was found, each problem with its path.
    pub(crate) fn into_vec(self) -> Vec<String> {
        self.found
    }

    /// `value`, unless there are problems.
    ///
    /// # Errors
    ///
    /// `Config`, which lists all of them.
    pub(crate) fn finish<T>(self, value: T) -> Result<T> {
        match self.found.as_slice() {
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

    /// One setting may be checked for several users of it.
    fn note(&mut self, problem: String) {
        if !self.found.contains(&problem) {
            self.found.push(problem);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn problems_have_paths_and_come_at_once() {
        let mut problems = Problems::default();
        problems.add("concurrency", "is 0");
        problems.add("concurrency", "is 0");
        problems.add("", "there are no routes");
        problems.within("routes.orders", |problems| {
            problems.add("", "has no consumer");
            problems
                .within("retry", |problems| problems.check(false, "max", "is shorter than the first pause"));
            problems.extend(["consumer.fetch.min.bytes: is too much".to_owned()]);
            problems.check(true, "max_messages", "is 0");
        });
        problems.add("producer.batch.size", "is 1");
        let error = problems.finish(()).unwrap_err();
        assert_eq!(
            error.to_string(),
            "6 settings are wrong:\n  concurrency: is 0\n  there are no routes\n  routes.orders: has no consumer\n  \
             routes.orders.retry.max: is shorter than the first pause\n  \
             routes.orders.consumer.fetch.min.bytes: is too much\n  producer.batch.size: is 1"
        );
        assert_eq!(Problems::default().finish(7).ok(), Some(7));
    }
}
