//! The rooms of the application: what lies directly below `src/app`, a file or a folder each.

use std::collections::{BTreeMap, BTreeSet};

use crate::source::Source;
use crate::{Finding, crate_sources, judge, own_paths, read_tree, reexports, repository};

const HOUSE: &str = "src/app/";

#[test]
fn rooms_of_the_application_do_not_import_in_circles() {
    judge(
        "rooms",
        "files and folders of the application have an order: none imports what imports it, directly or around corners. \
         Move what both need below both, as `policy.rs` lies below routing and processing",
        circles(crate_sources(repository()).filter(|source| source.path.starts_with(HOUSE)).collect()),
    );
}

fn circles(sources: Vec<&Source>) -> Vec<Finding> {
    let names = doors(&sources);
    let mut imports: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    let mut places = Vec::new();
    for source in &sources {
        let Some(from) = room(source) else { continue };
        for (at, name) in outward(source).into_iter().filter(|(at, _)| !source.is_test(*at)) {
            let Some(to) = names.get(&name).filter(|to| **to != from) else { continue };
            imports.entry(from).or_default().insert(to);
            places.push((*source, at, from, to.as_str()));
        }
    }
    let circles = places.into_iter().filter(|(.., from, to)| reaches(&imports, to, from));
    let finding = |(source, at, from, to)| {
        Finding::new(source, at, format!("`{from}` imports `{to}`, which imports `{from}`"))
    };
    circles.map(finding).collect()
}

/// The room that a file belongs to; none for the house itself.
fn room(source: &Source) -> Option<&str> {
    let name = source.path.strip_prefix(HOUSE)?.split('/').next()?.trim_end_matches(".rs");
    (name != "mod").then_some(name)
}

/// Under which name which room is found from within the house: its own, and those of what the house offers.
fn doors(sources: &[&Source]) -> BTreeMap<String, String> {
    let rooms: BTreeSet<&str> = sources.iter().filter_map(|source| room(source)).collect();
    let mut names: BTreeMap<String, String> =
        rooms.iter().map(|name| ((*name).to_owned(), (*name).to_owned())).collect();
    for source in sources {
        let inner = source.path[HOUSE.len()..].strip_suffix("/mod.rs");
        for (name, module) in reexports(source) {
            match inner {
                None if room(source).is_none() => names.insert(name, module),
                // For rooms of which the house offers everything.
                Some(inner) if rooms.contains(inner) => names.insert(name, inner.to_owned()),
                _ => None,
            };
        }
    }
    names
}

/// What a file imports of the house, by the first name below it.
fn outward(source: &Source) -> Vec<(usize, String)> {
    let own = own_paths(source).into_iter().filter(|(_, path)| path[0] == "app");
    let mut found: Vec<_> = own.filter_map(|(at, path)| Some((at, path.get(1)?.clone()))).collect();
    let depth = source.path[HOUSE.len()..].trim_end_matches("/mod.rs").matches('/').count() + 1;
    for at in source.find_in_all("super::").filter(|at| !source.code[..*at].ends_with("::")) {
        let rest = source.code[at..].trim_start_matches("super::");
        let supers = (source.code.len() - at - rest.len()) / "super::".len();
        if supers == depth + source.module_depth(at) {
            let mut paths = Vec::new();
            read_tree(rest, &mut Vec::new(), &mut paths);
            found.extend(paths.into_iter().map(|path| (at, path[0].clone())));
        }
    }
    found
}

/// True if `from` imports `to`, directly or around corners.
fn reaches(imports: &BTreeMap<&str, BTreeSet<&str>>, from: &str, to: &str) -> bool {
    let (mut seen, mut ahead) = (BTreeSet::new(), vec![from]);
    while let Some(room) = ahead.pop() {
        if room == to {
            return true;
        }
        if seen.insert(room) {
            ahead.extend(imports.get(room).into_iter().flatten());
        }
    }
    false
}

mod planted {
    use super::*;

    #[test]
    fn circles() {
        let house = Source::new("src/app/mod.rs", "pub use routing::Route; pub use policies::*;");
        let routing = Source::new("src/app/routing/mod.rs", "use super::policy::Marks;");
        let policies = Source::new(
            "src/app/policies/mod.rs",
            "pub use retry::Retry; use super::policy::Stage; use super::routing::Route;",
        );
        let policy = Source::new("src/app/policy.rs", "use crate::types::Offset;");
        let found = |text: &str| {
            let processing = Source::new("src/app/processing/run.rs", text);
            let context = Source::new("src/app/context.rs", "use super::processing::Ending;");
            let sources = vec![&house, &routing, &policies, &policy, &processing, &context];
            super::circles(sources).len()
        };
        assert_eq!(found("use crate::app::policies::Retry; use super::progress::Progress;"), 0);
        assert_eq!(found("use crate::app::context::Context;"), 2);
        assert_eq!(found("use super::super::context::Context;"), 2);
        assert_eq!(found("#[cfg(test)]\nmod tests { use crate::app::context::Context; }"), 0);
        let corner = Source::new("src/app/policy.rs", "use crate::app::{batch, Retry};");
        let around = super::circles(vec![&house, &routing, &policies, &corner]);
        // policy → policies → policy, and through routing.
        assert_eq!(around.len(), 4);
    }
}
