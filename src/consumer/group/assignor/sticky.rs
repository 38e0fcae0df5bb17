//! `cooperative-sticky` (KIP-54, KIP-429): as balanced as possible, then as few moves as possible; a partition that moves
//! from one living member to another is left out of this assignment, so that its owner gives it up first, and is assigned in
//! the rebalance that follows.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use bytestring::ByteString;

use super::{Assignment, Member, Topics};
use crate::types::{TopicName, TopicPartition};

/// Assigns every partition of every subscribed topic that exists, except those that change hands.
pub(crate) fn cooperative_sticky(topics: &Topics, members: &[Member]) -> Assignment {
    let (mut assignment, claims) = assign(topics, members);
    for (id, own) in &mut assignment {
        own.retain(|tp| !claims.held_by_another(tp, id));
        own.sort();
    }
    assignment
}

/// Who says to own what, after contradictions are resolved.
#[derive(Debug, Default)]
struct Claims {
    owner: BTreeMap<TopicPartition, (ByteString, i32)>,
    /// Claimed by several members in the same generation: nobody keeps it, all have to give it up.
    contested: BTreeSet<TopicPartition>,
}

impl Claims {
    fn collect(topics: &Topics, members: &[Member]) -> Self {
        let mut claims = Self::default();
        for member in members {
            for tp in &member.owned {
                let exists = topics.get(&tp.topic).is_some_and(|count| tp.partition.0 < *count);
                if !exists || !member.topics.contains(&tp.topic) {
                    continue;
                }
                let claim = (member.id.clone(), member.generation);
                match claims.owner.get(tp) {
                    Some((id, _)) if *id == member.id => {}
                    Some((_, generation)) if *generation > member.generation => {}
                    Some((_, generation)) if *generation == member.generation => {
                        claims.contested.insert(tp.clone());
                    }
                    _ => {
                        claims.contested.remove(tp);
                        claims.owner.insert(tp.clone(), claim);
                    }
                }
            }
        }
        claims
    }

    fn held_by_another(&self, tp: &TopicPartition, id: &ByteString) -> bool {
        self.contested.contains(tp) || self.owner.get(tp).is_some_and(|(owner, _)| owner != id)
    }

    /// What a member keeps the right to, by partition then topic (Java's order).
    fn of(&self, id: &ByteString) -> Vec<TopicPartition> {
        let mut own: Vec<TopicPartition> = self
            .owner
            .iter()
            .filter(|(tp, (owner, _))| owner == id && !self.contested.contains(*tp))
            .map(|(tp, _)| tp.clone())
            .collect();
        own.sort_by(|a, b| a.partition.cmp(&b.partition).then_with(|| a.topic.cmp(&b.topic)));
        own
    }
}

/// The balanced assignment, before partitions that change hands are taken out.
fn assign(topics: &Topics, members: &[Member]) -> (Assignment, Claims) {
    let claims = Claims::collect(topics, members);
    let subscriptions: BTreeMap<&ByteString, BTreeSet<&TopicName>> = members
        .iter()
        .map(|member| {
            (&member.id, member.topics.iter().filter(|topic| topics.contains_key(*topic)).collect())
        })
        .collect();
    let Some(first) = subscriptions.values().next() else { return (Assignment::new(), claims) };
    let assignment = if subscriptions.values().all(|topics| topics == first) {
        constrained(topics, first, subscriptions.keys().copied(), &claims)
    } else {
        general(topics, &subscriptions, &claims)
    };
    (assignment, claims)
}

fn partitions_of<'a>(topics: &Topics, names: impl Iterator<Item = &'a TopicName>) -> Vec<TopicPartition> {
    names
        .flat_map(|topic| {
            let count = topics.get(topic).copied().unwrap_or(0);
            (0..count).map(|partition| TopicPartition::new(topic.to_byte_string(), partition))
        })
        .collect()
}

/// All members subscribe to the same topics: quotas decide.
fn constrained<'a>(
    topics: &Topics,
    subscribed: &BTreeSet<&TopicName>,
    ids: impl ExactSizeIterator<Item = &'a ByteString>,
    claims: &Claims,
) -> Assignment {
    let all = partitions_of(topics, subscribed.iter().copied());
    let quota_min = all.len() / ids.len();
    let quota_max = all.len().div_ceil(ids.len());
    let over_expected = all.len() % ids.len();
    let mut over = 0;
    let mut assignment = Assignment::new();
    let mut assigned = BTreeSet::new();
    // Members below the minimum, and members at the minimum that may get one more; both by member id.
    let mut under: Vec<ByteString> = Vec::new();
    let mut exact: VecDeque<ByteString> = VecDeque::new();
    for id in ids {
        let mut own = claims.of(id);
        if own.len() < quota_min {
            under.push(id.clone());
        } else if own.len() >= quota_max && over < over_expected {
            own.truncate(quota_max);
            over += 1;
        } else {
            own.truncate(quota_min);
            exact.push_back(id.clone());
        }
        assigned.extend(own.iter().cloned());
        assignment.insert(id.clone(), own);
    }
    let mut next = 0;
    for tp in all {
        if assigned.contains(&tp) {
            continue;
        }
        let id = if under.is_empty() {
            if over >= over_expected {
                break;
            }
            over += 1;
            exact.pop_front()
        } else {
            next = if next >= under.len() { 0 } else { next };
            Some(under[next].clone())
        };
        let Some(id) = id else { break };
        let own = assignment.entry(id.clone()).or_default();
        own.push(tp);
        if !under.is_empty() {
            if own.len() == quota_min {
                under.remove(next);
                exact.push_back(id);
            } else {
                next += 1;
            }
        }
    }
    assignment
}

/// Subscriptions differ: keep what is valid, give the rest to the least loaded, then move until nothing improves.
fn general(
    topics: &Topics,
    subscriptions: &BTreeMap<&ByteString, BTreeSet<&TopicName>>,
    claims: &Claims,
) -> Assignment {
    let mut potential: BTreeMap<&TopicName, Vec<&ByteString>> = BTreeMap::new();
    for (id, subscribed) in subscriptions {
        for topic in subscribed {
            potential.entry(topic).or_default().push(id);
        }
    }
    let mut assignment: Assignment = subscriptions.keys().map(|id| ((*id).clone(), claims.of(id))).collect();
    let mut owner: BTreeMap<TopicPartition, ByteString> =
        assignment.iter().flat_map(|(id, own)| own.iter().map(move |tp| (tp.clone(), id.clone()))).collect();
    let mut all = partitions_of(topics, potential.keys().copied());
    all.sort_by_key(|tp| potential[&tp.topic].len());
    let mut fresh = Vec::new();
    for tp in &all {
        if owner.contains_key(tp) {
            continue;
        }
        let Some(id) = least_loaded(&potential[&tp.topic], &assignment) else { continue };
        assignment.entry(id.clone()).or_default().push(tp.clone());
        owner.insert(tp.clone(), id.clone());
        fresh.push(tp.clone());
    }
    // Newly added partitions move first: moving them disturbs nobody. Each move lowers the sum of squared loads, so
    // the loops end.
    for candidates in [&fresh, &all] {
        let mut moved = true;
        while moved {
            moved = false;
            for tp in candidates {
                let (Some(from), Some(to)) =
                    (owner.get(tp).cloned(), least_loaded(&potential[&tp.topic], &assignment))
                else {
                    continue;
                };
                if assignment[&from].len() <= assignment[to].len() + 1 {
                    continue;
                }
                let to = to.clone();
                assignment.entry(from).or_default().retain(|own| own != tp);
                assignment.entry(to.clone()).or_default().push(tp.clone());
                owner.insert(tp.clone(), to);
                moved = true;
            }
        }
    }
    assignment
}

fn least_loaded<'a>(candidates: &[&'a ByteString], assignment: &Assignment) -> Option<&'a ByteString> {
    candidates.iter().copied().min_by_key(|id| (assignment.get(*id).map_or(0, Vec::len), *id))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tp(text: &str) -> TopicPartition {
        let (topic, partition) = text.split_at(1);
        TopicPartition::new(topic.to_owned(), partition.parse::<i32>().unwrap())
    }

    fn member(id: &str, topics: &str, owned: &str, generation: i32) -> Member {
        Member {
            id: id.into(),
            instance: None,
            topics: topics.split_whitespace().map(|topic| TopicName::from(topic.to_owned())).collect(),
            owned: owned.split_whitespace().map(tp).collect(),
            generation,
        }
    }

    fn topics(text: &str) -> Topics {
        text.split_whitespace()
            .map(|topic| {
                let topic = tp(topic);
                (topic.topic, topic.partition.0)
            })
            .collect()
    }

    fn show(assignment: &Assignment) -> String {
        let one = |(id, own): (&ByteString, &Vec<TopicPartition>)| {
            let own: Vec<String> = own.iter().map(|tp| format!("{}{}", tp.topic, tp.partition)).collect();
            format!("{id}: {}", own.join(" "))
        };
        assignment.iter().map(one).collect::<Vec<_>>().join(" | ")
    }

    fn check(counts: &str, members: &[Member], expected: &str) {
        assert_eq!(show(&cooperative_sticky(&topics(counts), members)), expected);
    }

    #[test]
    fn fresh_groups_are_balanced() {
        check("t3", &[member("a", "t", "", -1)], "a: t0 t1 t2");
        check("t3", &[member("a", "", "", -1)], "a: ");
        check("", &[member("a", "t", "", -1)], "a: ");
        check("t1", &[member("a", "t", "", -1), member("b", "t", "", -1)], "a: t0 | b: ");
        check("t2", &[member("a", "t", "", -1), member("b", "t", "", -1)], "a: t0 | b: t1");
        check(
            "t3 u3",
            &[member("a", "t u", "", -1), member("b", "t u", "", -1)],
            "a: t0 t2 u1 | b: t1 u0 u2",
        );
        check(
            "t5",
            &[member("a", "t", "", -1), member("b", "t", "", -1), member("c", "t", "", -1)],
            "a: t0 t3 | b: t1 t4 | c: t2",
        );
    }

    #[test]
    fn a_joining_member_waits_for_what_others_give_up() {
        // First phase: `a` gives up one, `b` gets nothing yet.
        check("t3", &[member("a", "t", "t0 t1 t2", 1), member("b", "t", "", -1)], "a: t0 t1 | b: ");
        // Second phase: it is free.
        check("t3", &[member("a", "t", "t0 t1", 2), member("b", "t", "", 2)], "a: t0 t1 | b: t2");
    }

    #[test]
    fn a_leaving_member_moves_only_its_own() {
        check(
            "t6",
            &[member("a", "t", "t0 t3", 4), member("b", "t", "t1 t4", 4)],
            "a: t0 t2 t3 | b: t1 t4 t5",
        );
    }

    #[test]
    fn contradicting_claims() {
        // The newer generation wins.
        check("t2", &[member("a", "t", "t0 t1", 3), member("b", "t", "t0", 5)], "a: t1 | b: t0");
        // The same generation: nobody keeps it.
        check("t2", &[member("a", "t", "t0 t1", 3), member("b", "t", "t0", 3)], "a: t1 | b: ");
        // Negative or missing partitions are not claims.
        check("t1", &[member("a", "t", "t7", 3), member("b", "t", "", 3)], "a: t0 | b: ");
    }

    #[test]
    fn unequal_subscriptions() {
        check("t3 u3", &[member("a", "t", "", -1), member("b", "t u", "", -1)], "a: t0 t1 t2 | b: u0 u1 u2");
        // `c` alone reads u; what it owns of t goes to the others, after it gave it up.
        check("t2 u2", &[member("a", "t", "", -1), member("c", "t u", "t0 t1 u0 u1", 1)], "a:  | c: u0 u1");
    }

    /// Random groups: complete, never twice, balanced when subscriptions are equal, stable after few rounds.
    #[test]
    fn random_groups_converge() {
        let mut seed = 1u64;
        let mut dice = |n: u64| {
            seed = seed.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            (seed >> 33) % n
        };
        for round in 0..400 {
            let names = ["t", "u", "v"];
            let topics: Topics = names.iter().map(|t| (TopicName::from(*t), dice(8) as i32)).collect();
            let equal = round % 2 == 0;
            let mut members: Vec<Member> = (0..1 + dice(6))
                .map(|i| {
                    let subscribed: Vec<&str> =
                        names.iter().copied().filter(|_| equal || dice(3) > 0).collect();
                    let owned: Vec<String> =
                        (0..dice(6)).map(|_| format!("{}{}", names[dice(3) as usize], dice(9))).collect();
                    member(&format!("m{i}"), &subscribed.join(" "), &owned.join(" "), dice(3) as i32 - 1)
                })
                .collect();
            let mut previous = Assignment::new();
            for phase in 0.. {
                assert!(phase < 6, "round {round} does not settle");
                let assignment = cooperative_sticky(&topics, &members);
                let mut seen = BTreeSet::new();
                for (id, own) in &assignment {
                    let subscribed = &members.iter().find(|m| m.id == *id).unwrap().topics;
                    for tp in own {
                        assert!(subscribed.contains(&tp.topic) && seen.insert(tp.clone()), "round {round}");
                    }
                }
                for member in &mut members {
                    member.owned = assignment[&member.id].clone();
                    member.generation = 10 + phase;
                }
                if assignment == previous {
                    let subscribed: BTreeSet<&TopicName> = members.iter().flat_map(|m| &m.topics).collect();
                    assert_eq!(
                        seen.len(),
                        partitions_of(&topics, subscribed.into_iter()).len(),
                        "round {round}"
                    );
                    let loads = assignment.values().map(Vec::len);
                    if equal {
                        assert!(loads.clone().max().unwrap() - loads.min().unwrap() <= 1, "round {round}");
                    }
                    break;
                }
                previous = assignment;
            }
        }
    }
}
