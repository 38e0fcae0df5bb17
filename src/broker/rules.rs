//! Interception of requests: which requests a rule meets and what happens to them. The machine half of `Control`.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use crate::ErrorCode;
use crate::runtime::watch;
use crate::wire::ApiKey;

/// Which requests a rule meets. Without conditions it meets all.
#[derive(Clone, Debug, Default)]
pub struct Matcher {
    node: Option<i32>,
    api: Option<ApiKey>,
    client_id: Option<String>,
    skip: u64,
    times: Option<u64>,
    probability: Option<f64>,
}

impl Matcher {
    /// Every request.
    pub fn any() -> Self {
        Self::default()
    }

    /// Requests of one API.
    pub fn api(api: ApiKey) -> Self {
        Self { api: Some(api), ..Self::default() }
    }

    /// Only at this node.
    #[must_use]
    pub fn node(mut self, node: i32) -> Self {
        self.node = Some(node);
        self
    }

    /// Only from clients that call themselves so.
    #[must_use]
    pub fn client_id(mut self, client_id: impl Into<String>) -> Self {
        self.client_id = Some(client_id.into());
        self
    }

    /// Lets the first `count` matching requests pass.
    #[must_use]
    pub fn skip(mut self, count: u64) -> Self {
        self.skip = count;
        self
    }

    /// The `n`th matching request alone, counted from 1.
    #[must_use]
    pub fn nth(self, n: u64) -> Self {
        self.skip(n.saturating_sub(1)).times(1)
    }

    /// At most `count` requests; then the rule is spent.
    #[must_use]
    pub fn times(mut self, count: u64) -> Self {
        self.times = Some(count);
        self
    }

    /// Each matching request with this probability (0 to 1), by the dice of the cluster's runtime.
    #[must_use]
    pub fn probability(mut self, probability: f64) -> Self {
        self.probability = Some(probability);
        self
    }

    fn fits(&self, node: i32, api: ApiKey, client_id: Option<&str>) -> bool {
        self.node.is_none_or(|wanted| wanted == node)
            && self.api.is_none_or(|wanted| wanted == api)
            && self.client_id.as_deref().is_none_or(|wanted| client_id == Some(wanted))
    }
}

/// What happens to a request that a rule meets.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum Action {
    /// It is handled this much later. The connection answers nothing else meanwhile.
    Delay(Duration),
    /// It is handled when the interception is released or removed, and never if that does not happen.
    Hold,
    /// It is handled at once, its answer leaves this much later: what it says may have changed meanwhile, such as who leads.
    DelayAnswer(Duration),
    /// It is handled at once, its answer leaves when the interception is released or removed, and never if that does not
    /// happen.
    HoldAnswer,
    /// It takes effect, and the answer asks for a pause of this length (KIP-219), as a quota does: nothing more is read
    /// from the connection until the pause is over. As in Kafka, the answer to a Fetch then brings no records.
    Throttle(Duration),
    /// The connection closes before the request has any effect.
    DropRequest,
    /// The request takes effect, then the connection closes without an answer.
    DropAnswer,
    /// It has no effect and is answered with this error code.
    Error(ErrorCode),
    /// It takes effect, and the connection closes behind this many bytes of the answer (its length prefix included).
    CutAfter(usize),
}

/// A rule and how often it was met.
#[derive(Debug)]
struct Rule {
    matcher: Matcher,
    action: Action,
    met: u64,
    hits: u64,
    /// True once held requests may go on.
    released: Arc<watch::Sender<bool>>,
}

/// What becomes of a request that a rule matched.
#[derive(Clone, Debug)]
pub(crate) struct Met {
    pub(crate) action: Action,
    pub(crate) released: watch::Receiver<bool>,
}

/// All rules, and counters of requests.
#[derive(Debug, Default)]
pub(crate) struct Rules {
    rules: BTreeMap<u64, Rule>,
    next: u64,
    counts: BTreeMap<(i32, i16), u64>,
}

impl Rules {
    pub(crate) fn add(&mut self, matcher: Matcher, action: Action) -> u64 {
        self.next += 1;
        let released = Arc::new(watch::Sender::new(false));
        self.rules.insert(self.next, Rule { matcher, action, met: 0, hits: 0, released });
        self.next
    }

    /// Removes a rule; what it held goes on.
    pub(crate) fn remove(&mut self, id: u64) {
        if let Some(rule) = self.rules.remove(&id) {
            rule.released.send_replace(true);
        }
    }

    pub(crate) fn clear(&mut self) {
        for rule in std::mem::take(&mut self.rules).into_values() {
            rule.released.send_replace(true);
        }
    }

    /// Lets held requests go on; later ones pass the rule untouched.
    pub(crate) fn release(&mut self, id: u64) {
        if let Some(rule) = self.rules.get_mut(&id) {
            rule.released.send_replace(true);
        }
    }

    pub(crate) fn hits(&self, id: u64) -> u64 {
        self.rules.get(&id).map_or(0, |rule| rule.hits)
    }

    /// Counts a request and finds the first rule that meets it.
    pub(crate) fn meet(
        &mut self,
        node: i32,
        api: ApiKey,
        client_id: Option<&str>,
        dice: &mut fastrand::Rng,
    ) -> Option<Met> {
        *self.counts.entry((node, api.0)).or_default() += 1;
        for rule in self.rules.values_mut() {
            if !rule.matcher.fits(node, api, client_id) {
                continue;
            }
            rule.met += 1;
            let spent = rule.matcher.times.is_some_and(|times| rule.hits >= times);
            if spent || rule.met <= rule.matcher.skip {
                continue;
            }
            if rule.matcher.probability.is_some_and(|probability| dice.f64() >= probability) {
                continue;
            }
            rule.hits += 1;
            return Some(Met { action: rule.action.clone(), released: rule.released.subscribe() });
        }
        None
    }

    /// Requests of one API that reached a node, or all nodes.
    pub(crate) fn count(&self, node: Option<i32>, api: ApiKey) -> u64 {
        self.counts
            .iter()
            .filter(|((at, key), _)| *key == api.0 && node.is_none_or(|node| node == *at))
            .map(|(_, count)| count)
            .sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_count_skip_and_end() {
        let mut rules = Rules::default();
        let mut dice = fastrand::Rng::with_seed(1);
        let id = rules.add(Matcher::api(ApiKey::PRODUCE).node(1).skip(1).times(2), Action::DropAnswer);
        let mut meet = |node, api| rules.meet(node, api, Some("c"), &mut dice).is_some();
        let met: Vec<bool> = (0..5).map(|_| meet(1, ApiKey::PRODUCE)).collect();
        assert_eq!(met, [false, true, true, false, false]);
        assert!(!meet(0, ApiKey::PRODUCE) && !meet(1, ApiKey::FETCH));
        assert_eq!((rules.hits(id), rules.count(None, ApiKey::PRODUCE)), (2, 6));
        assert_eq!(rules.count(Some(1), ApiKey::PRODUCE), 5);
        rules.remove(id);
        assert_eq!(rules.hits(id), 0);
    }

    #[test]
    fn chances_come_from_the_given_dice() {
        let hits = |seed| {
            let mut rules = Rules::default();
            let mut dice = fastrand::Rng::with_seed(seed);
            let id = rules.add(Matcher::any().probability(0.25), Action::DropRequest);
            for _ in 0..1000 {
                rules.meet(0, ApiKey::FETCH, None, &mut dice);
            }
            rules.hits(id)
        };
        assert_eq!(hits(7), hits(7));
        assert!((150..350).contains(&hits(7)));
    }
}
