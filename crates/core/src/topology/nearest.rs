//! Which of several addresses a link goes to: the nearest edge that answers, the master while none does.
//!
//! Pure: measurements and the time come in, a choice comes out. The rules keep it from going back and forth:
//!
//! - An edge's latency is the best of its last [`SAMPLES`] measurements, so that one slow answer of a busy machine or
//!   one lost packet does not count.
//! - A link that works moves only to an edge that is nearer by [`CLEARLY_MS`] **and** a quarter, or that is as near and
//!   stands earlier in the list; and only after [`STEADY`] measurements in a row, and [`DWELL_MS`] on the present edge.
//!   (The dwell does not hold for the master, nor for an edge that stopped answering.)
//! - An edge that failed is left alone for a while, which doubles with every failure (flap damping as in RFC 2439, in
//!   its simplest form), and is forgiven once the link has stayed on it for as long as the longest while.

use std::collections::VecDeque;

use super::address::Endpoint;

/// Measurements of one edge that are kept.
pub const SAMPLES: usize = 4;
/// Measurements in a row that an edge must answer before a working link moves to it.
pub const STEADY: u32 = 3;
/// Measurements in a row that go unanswered before an edge counts as gone.
pub const LOST: u32 = 3;
/// A difference that counts, in milliseconds.
pub const CLEARLY_MS: f64 = 5.0;
/// A difference that counts for nothing, in milliseconds.
const EQUAL_MS: f64 = 1.0;
/// How long a link stays where it is, at least, in milliseconds, unless it has to go.
pub const DWELL_MS: u64 = 10_000;
/// How long an edge that failed is left alone at first, in milliseconds, and at most.
const SHUN_FIRST_MS: u64 = 1_000;
const SHUN_MAX_MS: u64 = 60_000;

#[derive(Clone, Debug, Default)]
struct Candidate {
    samples: VecDeque<f64>,
    answered: u32,
    missed: u32,
    failures: u32,
    shunned_until: u64,
}

impl Candidate {
    fn latency(&self) -> Option<f64> {
        self.samples.iter().copied().reduce(f64::min)
    }
}

/// Chooses among the addresses of one link. Times are milliseconds of any clock that does not go back.
#[derive(Clone, Debug)]
pub struct Nearest {
    endpoints: Vec<Endpoint>,
    /// The last of the endpoints is the master.
    has_master: bool,
    candidates: Vec<Candidate>,
    current: usize,
    since: u64,
}

impl Nearest {
    /// Edges in the order of preference among equals, and the master. An address that is there twice counts once.
    #[must_use]
    pub fn new(edges: Vec<Endpoint>, master: Option<Endpoint>) -> Self {
        let mut endpoints: Vec<Endpoint> = Vec::new();
        for edge in edges {
            if !endpoints.contains(&edge) && master.as_ref() != Some(&edge) {
                endpoints.push(edge);
            }
        }
        let has_master = master.is_some();
        endpoints.extend(master);
        let candidates = vec![Candidate::default(); endpoints.len()];
        Self { endpoints, has_master, candidates, current: 0, since: 0 }
    }

    /// All addresses, the master last.
    #[must_use]
    pub fn endpoints(&self) -> &[Endpoint] {
        &self.endpoints
    }

    /// Whether there is anything to choose.
    #[must_use]
    pub const fn is_choice(&self) -> bool {
        self.endpoints.len() > 1
    }

    /// The address that the link goes to now.
    #[must_use]
    pub fn current(&self) -> Option<&Endpoint> {
        self.endpoints.get(self.current)
    }

    /// An address and its latency in milliseconds, each; `None` if it was not measured or does not answer.
    pub fn latencies(&self) -> impl Iterator<Item = (&Endpoint, Option<f64>)> {
        let live = |c: &Candidate| c.latency().filter(|_| c.missed < LOST);
        self.endpoints.iter().zip(self.candidates.iter().map(live))
    }

    /// Takes note of a measurement: `Some(milliseconds)`, or `None` if there was no answer.
    pub fn measured(&mut self, endpoint: &Endpoint, latency_ms: Option<f64>) {
        let Some(candidate) = self.candidate(endpoint) else { return };
        match latency_ms {
            Some(ms) => {
                candidate.answered = candidate.answered.saturating_add(1);
                candidate.missed = 0;
                candidate.samples.push_back(ms);
                if candidate.samples.len() > SAMPLES {
                    candidate.samples.pop_front();
                }
            }
            None => {
                candidate.answered = 0;
                candidate.missed = candidate.missed.saturating_add(1);
                if candidate.missed >= LOST {
                    // What it will be like when it comes back is another matter.
                    candidate.samples.clear();
                }
            }
        }
    }

    /// Takes note that a link to this address could not be had, or ended otherwise than by this side's will.
    pub fn failed(&mut self, endpoint: &Endpoint, now: u64) {
        let (current, since) = (self.current, self.since);
        let lasted = now.saturating_sub(since) >= SHUN_MAX_MS;
        let is_current = self.endpoints.get(current) == Some(endpoint);
        let Some(candidate) = self.candidate(endpoint) else { return };
        if is_current && lasted {
            candidate.failures = 0;
        }
        let shun = SHUN_MAX_MS.min(SHUN_FIRST_MS << candidate.failures.min(16));
        candidate.failures = candidate.failures.saturating_add(1);
        candidate.shunned_until = now.saturating_add(shun);
        candidate.answered = 0;
    }

    /// Chooses where to connect next, and goes there: the nearest edge that answers and did not fail just now; the
    /// master if there is none; the edge whose time comes first if there is no master either.
    pub fn choose(&mut self, now: u64) -> Option<&Endpoint> {
        let usable = |c: &Candidate| c.missed < LOST && c.shunned_until <= now;
        let best = self.best_edge(usable).or_else(|| self.master().filter(|at| self.is_usable(*at, now)));
        let next_to_try = || {
            let all = self.candidates.iter().enumerate();
            all.min_by_key(|(_, c)| c.shunned_until).map(|(at, _)| at)
        };
        let chosen = best.or_else(next_to_try)?;
        if chosen != self.current {
            self.current = chosen;
        }
        self.since = now;
        self.endpoints.get(chosen)
    }

    /// Whether an address is left that can be tried now.
    #[must_use]
    pub fn has_untried(&self, now: u64) -> bool {
        self.is_choice() && (0..self.candidates.len()).any(|at| self.is_usable(at, now))
    }

    /// Whether a link that works should go elsewhere: where it is stopped answering, or an edge is clearly better.
    #[must_use]
    pub fn should_move(&self, now: u64) -> bool {
        let Some(present) = self.candidates.get(self.current) else { return false };
        let steady = |c: &Candidate| c.answered >= STEADY && c.shunned_until <= now;
        let Some(best) = self.best_edge(steady).filter(|best| *best != self.current) else {
            // Only away from what is gone, and only to what may be there.
            return present.missed >= LOST && self.has_untried(now);
        };
        if present.missed >= LOST || Some(self.current) == self.master() {
            return true;
        }
        let (Some(new), Some(old)) = (self.latency(best), present.latency()) else { return false };
        let nearer = new + CLEARLY_MS < old && new < old * 0.75;
        let preferred = best < self.current && new <= old + EQUAL_MS;
        now.saturating_sub(self.since) >= DWELL_MS && (nearer || preferred)
    }

    fn candidate(&mut self, endpoint: &Endpoint) -> Option<&mut Candidate> {
        let at = self.endpoints.iter().position(|other| other == endpoint)?;
        self.candidates.get_mut(at)
    }

    fn latency(&self, at: usize) -> Option<f64> {
        self.candidates.get(at).and_then(Candidate::latency)
    }

    fn is_usable(&self, at: usize, now: u64) -> bool {
        self.candidates.get(at).is_some_and(|c| c.missed < LOST && c.shunned_until <= now)
    }

    fn master(&self) -> Option<usize> {
        self.has_master.then(|| self.endpoints.len().saturating_sub(1))
    }

    /// The edge with the lowest latency among the `good` ones; of those that are about equal, the first. One that was
    /// never measured is the last choice.
    fn best_edge(&self, good: impl Fn(&Candidate) -> bool) -> Option<usize> {
        let edges =
            self.candidates.iter().enumerate().filter(|(at, c)| Some(*at) != self.master() && good(c));
        let all: Vec<(usize, f64)> =
            edges.map(|(at, c)| (at, c.latency().unwrap_or(f64::INFINITY))).collect();
        let least = all.iter().map(|(_, ms)| *ms).reduce(f64::min)?;
        all.into_iter().find(|(_, ms)| *ms <= least + EQUAL_MS).map(|(at, _)| at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn at(name: &str) -> Endpoint {
        format!("ws://{name}:1").parse().unwrap()
    }

    fn three() -> Nearest {
        Nearest::new(vec![at("a"), at("b")], Some(at("m")))
    }

    /// Measures a, b and m once; `None`: no answer.
    fn round(nearest: &mut Nearest, times: [Option<f64>; 3]) {
        for (name, time) in ["a", "b", "m"].into_iter().zip(times) {
            nearest.measured(&at(name), time);
        }
    }

    #[test]
    fn the_nearest_edge_is_taken_and_the_first_of_equals() {
        let mut nearest = three();
        round(&mut nearest, [Some(40.0), Some(3.0), Some(0.1)]);
        assert_eq!(nearest.choose(0), Some(&at("b")), "a nearer master is no edge");
        let mut equal = three();
        round(&mut equal, [Some(3.5), Some(3.0), None]);
        assert_eq!(equal.choose(0), Some(&at("a")));
    }

    #[test]
    fn failing_edges_lead_to_the_next_to_the_master_and_back() {
        let mut nearest = three();
        round(&mut nearest, [Some(1.0), Some(20.0), Some(50.0)]);
        assert_eq!(nearest.choose(0), Some(&at("a")));
        nearest.failed(&at("a"), 10);
        assert_eq!(nearest.choose(10), Some(&at("b")));
        nearest.failed(&at("b"), 20);
        assert_eq!(nearest.choose(20), Some(&at("m")));
        nearest.failed(&at("m"), 30);
        assert!(!nearest.has_untried(30));
        assert_eq!(nearest.choose(30), Some(&at("a")), "the one whose time comes first");
        nearest.choose(1_100);
        let mut on_master = three();
        (0..LOST).for_each(|_| round(&mut on_master, [None, None, Some(50.0)]));
        assert_eq!(on_master.choose(0), Some(&at("m")));
        for answers in 1..=STEADY {
            assert!(!on_master.should_move(100));
            round(&mut on_master, [None, Some(20.0), Some(50.0)]);
            assert_eq!(on_master.should_move(100), answers == STEADY, "as soon as it answers steadily");
        }
        assert_eq!(on_master.choose(100), Some(&at("b")));
    }

    #[test]
    fn a_working_link_moves_only_for_a_clear_gain_that_lasts() {
        let mut nearest = three();
        round(&mut nearest, [Some(20.0), None, None]);
        nearest.choose(0);
        for b in [18.0, 16.0, 15.5] {
            (0..8).for_each(|_| round(&mut nearest, [Some(20.0), Some(b), None]));
            assert!(!nearest.should_move(2 * DWELL_MS), "{b}");
        }
        (0..8).for_each(|_| round(&mut nearest, [Some(20.0), Some(9.0), None]));
        assert!(!nearest.should_move(DWELL_MS - 1));
        assert!(nearest.should_move(DWELL_MS));
        nearest.choose(DWELL_MS);
        // And from there back only once the first one is as near.
        (0..8).for_each(|_| round(&mut nearest, [Some(11.0), Some(9.0), None]));
        assert!(!nearest.should_move(3 * DWELL_MS));
        (0..8).for_each(|_| round(&mut nearest, [Some(9.5), Some(9.0), None]));
        assert!(nearest.should_move(3 * DWELL_MS));
    }

    #[test]
    fn an_edge_that_keeps_failing_is_left_alone_ever_longer() {
        let mut nearest = three();
        let mut now = 0;
        let mut pauses = Vec::new();
        for _ in 0..9 {
            round(&mut nearest, [Some(1.0), None, Some(50.0)]);
            round(&mut nearest, [Some(1.0), None, Some(50.0)]);
            round(&mut nearest, [Some(1.0), None, Some(50.0)]);
            while nearest.choose(now) != Some(&at("a")) {
                now += 500;
            }
            nearest.failed(&at("a"), now);
            let failed = now;
            while nearest.choose(now) != Some(&at("a")) {
                now += 500;
            }
            pauses.push(now - failed);
        }
        assert!(pauses.is_sorted() && pauses[0] < 3_000 && pauses[8] >= SHUN_MAX_MS - 500, "{pauses:?}");
    }

    #[test]
    fn an_edge_that_stops_answering_is_left() {
        let mut nearest = three();
        round(&mut nearest, [Some(1.0), Some(30.0), Some(50.0)]);
        nearest.choose(0);
        for missed in 1..=LOST {
            round(&mut nearest, [None, Some(30.0), Some(50.0)]);
            assert_eq!(nearest.should_move(10), missed == LOST);
        }
        assert_eq!(nearest.choose(10), Some(&at("b")));
        assert!(Nearest::new(vec![], None).choose(0).is_none());
    }

    proptest! {
        /// Noise does not make a link wander: with latencies that never differ clearly it moves at most once, to the first.
        #[test]
        fn noise_moves_nothing(noise in prop::collection::vec((0.0..4.0f64, 0.0..4.0f64), 1..200)) {
            let mut nearest = three();
            round(&mut nearest, [Some(12.0), Some(12.0), None]);
            nearest.choose(0);
            let mut moves = 0;
            for (turn, (a, b)) in noise.into_iter().enumerate() {
                round(&mut nearest, [Some(10.0 + a), Some(10.0 + b), None]);
                let now = (turn as u64 + 1) * DWELL_MS;
                if nearest.should_move(now) {
                    moves += 1;
                    nearest.choose(now);
                }
            }
            prop_assert!(moves <= 1, "{moves}");
        }
    }
}
