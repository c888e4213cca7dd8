//! Dice: the words of a script's operation, read one after another. They
//! never run out: after the last word they go on from all of them.

/// Choices from a few words.
#[derive(Debug, Clone)]
pub struct Dice {
    words: Vec<u32>,
    next: usize,
    state: u64,
    /// Whether [`Dice::wild`] may say yes.
    pub hostile: bool,
}

impl Dice {
    /// Dice over these words.
    pub fn new(words: &[u32]) -> Self {
        let mix = |state: u64, word: &u32| state.rotate_left(17) ^ u64::from(*word);
        Dice {
            words: words.to_vec(),
            next: 0,
            state: words.iter().fold(0x9e37_79b9_7f4a_7c15, mix),
            hostile: false,
        }
    }

    /// A word; the later ones by splitmix64.
    pub fn word(&mut self) -> u32 {
        if let Some(word) = self.words.get(self.next) {
            self.next += 1;
            return *word;
        }
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z >> 32) as u32
    }

    /// A number below `n`.
    pub fn below(&mut self, n: u64) -> u64 {
        u64::from(self.word()) % n.max(1)
    }

    /// One of `items`.
    pub fn pick<T: Copy>(&mut self, items: &[T]) -> T {
        items[self.below(items.len() as u64) as usize]
    }

    /// One of `items`, if there are any.
    pub fn any<T: Copy>(&mut self, items: &[T]) -> Option<T> {
        (!items.is_empty()).then(|| self.pick(items))
    }

    /// Yes, once in `n`.
    pub fn once_in(&mut self, n: u64) -> bool {
        self.below(n) == n - 1
    }

    /// Yes, once in `n` of a hostile operation, never in an honest one.
    pub fn wild(&mut self, n: u64) -> bool {
        self.hostile && self.once_in(n)
    }

    /// An amount: mostly ordinary, now and then one or enormous.
    pub fn amount(&mut self) -> u64 {
        match self.below(40) {
            0 => 1,
            1..=4 => 1 + self.below(50),
            5..=30 => 1 + self.below(200_000),
            31..=38 => 1 + self.below(20_000_000),
            _ => u64::MAX / (1 + self.below(6)),
        }
    }

    /// A span of time in ms: from one to some days.
    pub fn span(&mut self) -> u64 {
        let scale = self.pick(&[1, 1_000, 60_000, 3_600_000, 3_600_000, 86_400_000]);
        1 + self.below(10 * scale)
    }
}
