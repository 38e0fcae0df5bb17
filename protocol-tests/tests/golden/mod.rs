//! What other implementations wrote: read, compared with what Apache Kafka reads from it, and written again with the same
//! bytes, or listed with the reason why not.

mod batches;
mod bodies;
mod frames;

use std::collections::BTreeMap;
use std::fmt::Display;

/// A kind of vectors that carafe writes differently: file, name (the beginning of it where it ends in a dot), how many, why.
type Difference = (&'static str, &'static str, usize, &'static str);

/// Fails unless `found` (file with line, name) is exactly what `listed` says.
fn judge(listed: &[Difference], found: &[(String, String)]) {
    let mut kinds: BTreeMap<(&str, &str), Vec<&str>> =
        listed.iter().map(|kind| ((kind.0, kind.1), Vec::new())).collect();
    let mut unlisted = Vec::new();
    for (origin, name) in found {
        let file = origin.split(':').next().unwrap_or_default();
        let kind = listed.iter().find(|(of, kind, ..)| {
            *of == file && (name == kind || kind.ends_with('.') && name.starts_with(kind))
        });
        match kind {
            Some(kind) => kinds.entry((kind.0, kind.1)).or_default().push(origin),
            None => unlisted.push(format!("{origin} {name}")),
        }
    }
    assert!(unlisted.is_empty(), "written with other bytes:\n{}", unlisted.join("\n"));
    for (file, name, count, _) in listed {
        let found = &kinds[&(*file, *name)];
        assert_eq!(found.len(), *count, "{file} {name}: the list may shrink to what is left: {found:?}");
    }
}

/// What was read or written without a fault of the vector from `origin`.
fn ok<T, E: Display>(origin: &str, result: Result<T, E>) -> T {
    result.unwrap_or_else(|error| panic!("{origin}: {error}"))
}
