//! Repeatable randomness: every run has a new seed, a failing one prints it, `RELAYSTREAM_TEST_SEED` sets it.

/// SplitMix64: small, good enough, and the same everywhere.
#[derive(Debug, Clone)]
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Random {
        Random(seed)
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// From 0 up to, not including, `limit`.
    pub(crate) fn below(&mut self, limit: usize) -> usize {
        (self.next() % limit.max(1) as u64) as usize
    }

    pub(crate) fn chance(&mut self, percent: usize) -> bool {
        self.below(100) < percent
    }

    pub(crate) fn pick<'a, T>(&mut self, from: &'a [T]) -> &'a T {
        &from[self.below(from.len())]
    }

    /// A generator of its own, for one of many tasks.
    pub(crate) fn fork(&mut self) -> Random {
        Random(self.next())
    }
}

/// The seed of this run; told when the test fails.
pub(crate) struct Seed(pub(crate) u64);

impl Seed {
    #[expect(clippy::disallowed_methods, reason = "a test's own switch, not an option of the program")]
    pub(crate) fn of_this_run() -> Seed {
        let set = std::env::var("RELAYSTREAM_TEST_SEED").ok().and_then(|text| text.parse().ok());
        Seed(set.unwrap_or_else(|| ulid::Ulid::generate().0 as u64))
    }

    pub(crate) fn random(&self) -> Random {
        Random::new(self.0)
    }
}

impl Drop for Seed {
    #[expect(clippy::print_stderr, reason = "the one thing a failing run must leave behind")]
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("again with RELAYSTREAM_TEST_SEED={}", self.0);
        }
    }
}
