//! `range`: per topic, contiguous ranges in member order; the first members get one more where it does not divide.

use super::{Assignment, Member, Topics, in_order};
use crate::types::{TopicName, TopicPartition};

/// Assigns every partition of every subscribed topic that exists.
pub(crate) fn range(topics: &Topics, members: &[Member]) -> Assignment {
    let members = in_order(members);
    let mut assignment: Assignment = members.iter().map(|member| (member.id.clone(), Vec::new())).collect();
    for (topic, &count) in topics {
        let interested: Vec<&&Member> = members.iter().filter(|member| subscribes(member, topic)).collect();
        if interested.is_empty() {
            continue;
        }
        let (base, extra) = (count as usize / interested.len(), count as usize % interested.len());
        let mut next = 0;
        for (index, member) in interested.iter().enumerate() {
            let take = base + usize::from(index < extra);
            let own = assignment.entry(member.id.clone()).or_default();
            own.extend((next..next + take).map(|p| TopicPartition::new(topic.to_byte_string(), p as i32)));
            next += take;
        }
    }
    for own in assignment.values_mut() {
        own.sort();
    }
    assignment
}

fn subscribes(member: &Member, topic: &TopicName) -> bool {
    member.topics.contains(topic)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn member(id: &str, topics: &[&str]) -> Member {
        Member {
            id: id.into(),
            topics: topics.iter().map(|t| TopicName::from(t.to_string())).collect(),
            generation: -1,
            ..Member::default()
        }
    }

    fn check(topics: &[(&str, i32)], members: &[Member], expected: &[(&str, &str)]) {
        let topics = topics.iter().map(|(t, n)| (TopicName::from(t.to_string()), *n)).collect();
        let got: Vec<(String, String)> = range(&topics, members)
            .into_iter()
            .map(|(id, own)| {
                let own: Vec<String> = own.iter().map(|tp| format!("{}{}", tp.topic, tp.partition)).collect();
                (id.to_string(), own.join(" "))
            })
            .collect();
        let expected: Vec<(String, String)> =
            expected.iter().map(|(id, own)| (id.to_string(), own.to_string())).collect();
        assert_eq!(got, expected);
    }

    // The vectors of Java's RangeAssignorTest.
    #[test]
    fn java_vectors() {
        check(&[], &[member("c", &["t"])], &[("c", "")]);
        check(&[("t", 3)], &[member("c", &[])], &[("c", "")]);
        check(&[("t", 3)], &[member("c", &["t"])], &[("c", "t0 t1 t2")]);
        check(&[("t", 1)], &[member("a", &["t"]), member("b", &["t"])], &[("a", "t0"), ("b", "")]);
        check(&[("t", 2)], &[member("a", &["t"]), member("b", &["t"])], &[("a", "t0"), ("b", "t1")]);
        check(
            &[("t", 3), ("u", 2)],
            &[member("a", &["t"]), member("b", &["t", "u"]), member("c", &["t"])],
            &[("a", "t0"), ("b", "t1 u0 u1"), ("c", "t2")],
        );
        check(
            &[("t", 3), ("u", 3)],
            &[member("a", &["t", "u"]), member("b", &["t", "u"])],
            &[("a", "t0 t1 u0 u1"), ("b", "t2 u2")],
        );
    }

    #[test]
    fn static_members_come_first() {
        let mut z = member("z", &["t"]);
        z.instance = Some("i".into());
        check(&[("t", 3)], &[member("a", &["t"]), z], &[("a", "t2"), ("z", "t0 t1")]);
    }
}
