//! What happened to the flows of a row since the last tick.

use crate::flow::{Failure, Traffic};

/// Durations kept of a row at most; beyond, a fair choice of them.
const MAX_DURATIONS: usize = 256;

/// Since the last tick.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Activity {
    /// Connections that began, short ones included.
    pub opened: u64,
    /// Connections that ended well.
    pub closed: u64,
    /// Connections that were never established or were torn down, by [`Failure`].
    pub failed: [u64; Failure::ALL.len()],
    /// To the remote host.
    pub sent: Traffic,
    /// From it.
    pub received: Traffic,
    /// How long those lasted that ended.
    pub durations: Durations,
}

impl Activity {
    /// Takes in what happened elsewhere, to be reported as one.
    pub fn add(&mut self, other: &Self) {
        self.opened += other.opened;
        self.closed += other.closed;
        for (sum, failed) in self.failed.iter_mut().zip(other.failed) {
            *sum += failed;
        }
        self.sent.add(other.sent);
        self.received.add(other.received);
        self.durations.add(&other.durations);
    }

    /// Whether a connection failed.
    #[must_use]
    pub fn has_failures(&self) -> bool {
        self.failed.iter().any(|&failed| failed > 0)
    }
}

/// Seconds that connections lasted: all of them up to a bound, then a sample in
/// which each had the same chance (Vitter's algorithm R).
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Durations {
    kept: Vec<f32>,
    seen: u64,
    /// Samples taken in from elsewhere, which cannot be told in one line with others.
    more: Vec<(Vec<f32>, u64)>,
    random: u64,
}

impl Durations {
    /// Takes in one, in seconds.
    pub fn push(&mut self, seconds: f32) {
        self.seen += 1;
        if self.kept.len() < MAX_DURATIONS {
            self.kept.push(seconds);
            return;
        }
        // xorshift64 (Marsaglia 2003): fair enough to choose a sample.
        let mut random = self.random ^ self.seen.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        self.random = random;
        let place = usize::try_from(random % self.seen).unwrap_or(usize::MAX);
        if let Some(kept) = self.kept.get_mut(place) {
            *kept = seconds;
        }
    }

    /// Takes in those of another row: whole ones join, samples stay apart, as their
    /// rates differ.
    fn add(&mut self, other: &Self) {
        let whole = |durations: &Self| durations.seen == durations.kept.len() as u64;
        if whole(self) && whole(other) {
            self.kept.extend_from_slice(&other.kept);
            self.seen += other.seen;
        } else if other.seen > 0 {
            self.more.push((other.kept.clone(), other.seen));
        }
        self.more.extend_from_slice(&other.more);
    }

    /// How many there were, and their sum in seconds, of samples as far as that can be told.
    #[must_use]
    pub fn total(&self) -> (u64, f64) {
        self.samples().fold((0, 0.0), |(number, sum), (kept, of)| {
            let mean =
                kept.iter().copied().map(f64::from).sum::<f64>() / as_float(kept.len() as u64);
            (number + of, sum + mean * as_float(of))
        })
    }

    /// Samples: the durations, and of how many each is one.
    pub fn samples(&self) -> impl Iterator<Item = (&[f32], u64)> {
        std::iter::once((&*self.kept, self.seen))
            .chain(self.more.iter().map(|(kept, seen)| (&**kept, *seen)))
            .filter(|(kept, _)| !kept.is_empty())
    }
}

#[expect(
    clippy::cast_precision_loss,
    reason = "connections of a tick stay far below 2^52"
)]
const fn as_float(number: u64) -> f64 {
    number as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_all_kept_up_to_a_bound_and_sampled_fairly_beyond() {
        let mut durations = Durations::default();
        for number in 0..100_000_u32 {
            durations.push(f32::from(u16::try_from(number % 1000).unwrap()));
        }
        let samples: Vec<_> = durations.samples().collect();
        assert_eq!(samples.len(), 1);
        let (kept, of) = samples[0];
        assert_eq!((kept.len(), of), (MAX_DURATIONS, 100_000));
        let mean = kept.iter().sum::<f32>() / 256.0;
        // Five standard errors around the middle.
        assert!((mean - 499.5).abs() < 5.0 * 288.7 / 16.0, "{mean}");
        let (number, sum) = durations.total();
        assert_eq!(number, 100_000);
        assert!((sum / 100_000.0 - f64::from(mean)).abs() < 0.01, "{sum}");
    }

    #[test]
    fn whole_durations_join_and_samples_stay_apart() {
        let mut few = Durations::default();
        few.push(1.0);
        let mut more = few.clone();
        more.add(&few);
        assert_eq!(more.samples().collect::<Vec<_>>(), [(&[1.0, 1.0][..], 2)]);
        assert_eq!(more.total(), (2, 2.0));
        let mut many = Durations::default();
        for _ in 0..1000 {
            many.push(2.0);
        }
        more.add(&many);
        let samples: Vec<_> = more.samples().map(|(kept, of)| (kept.len(), of)).collect();
        assert_eq!(samples, [(2, 2), (MAX_DURATIONS, 1000)]);
    }
}
