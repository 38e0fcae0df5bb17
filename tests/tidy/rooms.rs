//! The rooms of an area: what lies directly below its folder, a file or a folder each.

use std::collections::{BTreeMap, BTreeSet};

use crate::source::Source;
use crate::{Finding, crate_sources, judge, own_paths, read_tree, reexports, repository};

/// The area in which files, too, have an order.
const STRICT: &str = "src/app/";

#[test]
fn rooms_do_not_import_in_circles() {
    let sources = || crate_sources(repository());
    let houses: BTreeSet<&str> = sources().filter_map(house).collect();
    let in_house = |house| sources().filter(|source| source.path.starts_with(house)).collect();
    judge(
        "rooms",
        "the folders of an area have an order, those of the application with its files: none imports what imports it, \
         directly or around corners. Move what both need below both, as `policy.rs` lies below routing and processing",
        houses.into_iter().flat_map(|house| circles(house, in_house(house))).collect(),
    );
}

/// The area that a file belongs to, as a prefix of paths. In `wire` the generator writes messages, their table and their
/// schemas in one piece, so what reads them and what they are made of need each other.
fn house(source: &Source) -> Option<&str> {
    let name = source.path.strip_prefix("src/")?.split_once('/')?.0;
    (!matches!(name, "bin" | "wire")).then(|| &source.path[.."src/".len() + name.len() + 1])
}

fn circles(house: &str, sources: Vec<&Source>) -> Vec<Finding> {
    let room = |source| room(house, source);
    let names = doors(house, &sources);
    let folders: BTreeSet<&str> = sources
        .iter()
        .filter_map(|source| Some(source.path.strip_prefix(house)?.split_once('/')?.0))
        .collect();
    let mut imports: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    let mut places = Vec::new();
    for source in &sources {
        let Some(from) = room(source) else { continue };
        for (at, name) in outward(house, source).into_iter().filter(|(at, _)| !source.is_test(*at)) {
            let Some(to) = names.get(&name).filter(|to| **to != from) else { continue };
            imports.entry(from).or_default().insert(to);
            places.push((*source, at, from, to.as_str()));
        }
    }
    // A circle of one folder and its files is the folder's own matter.
    let counts = |room: &str| {
        let circle = |other: &&&str| reaches(&imports, room, other) && reaches(&imports, other, room);
        house == STRICT || folders.iter().filter(circle).count() > 1
    };
    let circles = places.into_iter().filter(|(.., from, to)| reaches(&imports, to, from) && counts(from));
    let finding = |(source, at, from, to)| {
        Finding::new(source, at, format!("`{from}` imports `{to}`, which imports `{from}`"))
    };
    circles.map(finding).collect()
}

/// The room that a file belongs to; none for the house itself.
fn room<'a>(house: &str, source: &'a Source) -> Option<&'a str> {
    let name = source.path.strip_prefix(house)?.split('/').next()?.trim_end_matches(".rs");
    (name != "mod").then_some(name)
}

/// Under which name which room is found from within the house: its own, and those of what the house offers.
fn doors(house: &str, sources: &[&Source]) -> BTreeMap<String, String> {
    let rooms: BTreeSet<&str> = sources.iter().filter_map(|source| room(house, source)).collect();
    let mut names: BTreeMap<String, String> =
        rooms.iter().map(|name| ((*name).to_owned(), (*name).to_owned())).collect();
    for source in sources {
        let inner = source.path[house.len()..].strip_suffix("/mod.rs");
        for (name, module) in reexports(source) {
            match inner {
                None if room(house, source).is_none() => names.insert(name, module),
                // For rooms of which the house offers everything.
                Some(inner) if rooms.contains(inner) => names.insert(name, inner.to_owned()),
                _ => None,
            };
        }
    }
    names
}

/// What a file imports of the house, by the first name below it.
fn outward(house: &str, source: &Source) -> Vec<(usize, String)> {
    let area = house["src/".len()..].trim_end_matches('/');
    let own = own_paths(source).into_iter().filter(|(_, path)| path[0] == area);
    let mut found: Vec<_> = own.filter_map(|(at, path)| Some((at, path.get(1)?.clone()))).collect();
    let depth = source.path[house.len()..].trim_end_matches("/mod.rs").matches('/').count() + 1;
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
            super::circles(STRICT, sources).len()
        };
        assert_eq!(found("use crate::app::policies::Retry; use super::progress::Progress;"), 0);
        assert_eq!(found("use crate::app::context::Context;"), 2);
        assert_eq!(found("use super::super::context::Context;"), 2);
        assert_eq!(found("#[cfg(test)]\nmod tests { use crate::app::context::Context; }"), 0);
        let corner = Source::new("src/app/policy.rs", "use crate::app::{batch, Retry};");
        let around = super::circles(STRICT, vec![&house, &routing, &policies, &corner]);
        // policy → policies → policy, and through routing.
        assert_eq!(around.len(), 4);

        let found = |driver: &str, groups: &str| {
            let house = Source::new("src/broker/mod.rs", "pub use control::Control;");
            let cluster = Source::new("src/broker/cluster/mod.rs", "use super::groups::Groups;");
            let driver = Source::new("src/broker/driver.rs", driver);
            let groups = Source::new("src/broker/groups/mod.rs", groups);
            super::circles("src/broker/", vec![&house, &cluster, &driver, &groups]).len()
        };
        assert_eq!(found("use super::cluster::State;", "use super::settings::Settings;"), 0);
        // A file and a folder may need each other, two folders may not.
        assert_eq!(found("use super::groups::Groups;", "use super::driver::Shared;"), 0);
        assert_eq!(found("", "use super::cluster::State;"), 2);
        assert_eq!(found("use super::cluster::State;", "use super::driver::Shared;"), 3);
    }
}
