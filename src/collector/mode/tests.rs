//! By the clock of the test: what dumps cost and what is lost decides, and slowly.

use tokio::time::advance;

use super::*;
use crate::config::Interval;

const SECOND: Duration = Duration::from_secs(1);
const TICK: Duration = Duration::from_secs(10);
/// Half a per cent of a tick, and a fifth.
const COSTLY: Duration = Duration::from_millis(51);
const CHEAP: Duration = Duration::from_millis(19);
const BETWEEN: Duration = Duration::from_millis(30);

fn pace(mode: CollectorMode) -> Pace {
    let config = config::Collector {
        mode,
        resync_interval: Interval::from_secs(60),
        ..config::Collector::default()
    };
    Pace::new(&config, TICK)
}

impl Pace {
    /// Seconds, one after the other: in which of them events were lost; what was said.
    async fn live(&mut self, seconds: &[bool]) -> Vec<String> {
        let mut said = Vec::new();
        for &lost in seconds {
            advance(SECOND).await;
            said.extend(self.second(lost, Instant::now()));
        }
        said
    }

    /// Seconds without a loss until more is listened to.
    async fn quiet(&mut self) -> u64 {
        for second in 1..10_000 {
            if let [said] = &*self.live(&[false]).await {
                assert!(said.starts_with("events may be fewer now"), "{said}");
                return second;
            }
        }
        panic!("never");
    }

    /// Seconds with losses until less is listened to.
    async fn storm(&mut self) -> u64 {
        for second in 1..100 {
            if let [said] = &*self.live(&[true]).await {
                assert!(said.starts_with("events come faster"), "{said}");
                return second;
            }
        }
        panic!("never");
    }

    /// A tick with a dump that took so long; what was said.
    async fn dump(&mut self, took: Duration) -> Option<String> {
        advance(TICK).await;
        self.dumped(took, Instant::now())
    }
}

#[tokio::test(start_paused = true)]
async fn three_seconds_of_five_with_losses_are_too_many() {
    for (seconds, turns) in [
        (&[true, true][..], 0),
        (&[true, false, true, false, false, true, false, true], 0),
        (&[true, true, true], 1),
        (&[true, false, true, false, true], 1),
        (&[true, true, false, false, false, true, true], 0),
    ] {
        let mut pace = pace(CollectorMode::Events);
        assert_eq!(pace.live(seconds).await.len(), turns, "{seconds:?}");
        let mode = if turns == 0 {
            Mode::Events
        } else {
            Mode::Hybrid
        };
        assert_eq!(pace.mode(), mode, "{seconds:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn each_step_down_takes_losses_of_its_own_and_says_what_changes() {
    let mut pace = pace(CollectorMode::Events);
    let said = pace.live(&[true; 3]).await;
    assert_eq!(
        said,
        ["events come faster than they can be taken: from mode events to hybrid for 30s"]
    );
    assert_eq!(pace.resync_after(), None);
    assert!(pace.live(&[true; 2]).await.is_empty());
    let said = pace.live(&[true]).await;
    assert_eq!(
        said,
        ["events come faster than they can be taken: from mode hybrid to dump for 60s"]
    );
    // There is nothing less.
    assert!(pace.live(&[true; 20]).await.is_empty());
    assert_eq!(pace.mode(), Mode::Dump);
}

#[tokio::test(start_paused = true)]
async fn a_mode_that_listens_to_less_steps_down_from_there() {
    let mut pace = pace(CollectorMode::Hybrid);
    let said = pace.live(&[true; 3]).await;
    assert_eq!(
        said,
        ["events come faster than they can be taken: from mode hybrid to dump for 30s"]
    );
    assert_eq!(pace.quiet().await, 30);
    assert_eq!(pace.mode(), Mode::Hybrid);
    // That more might be listened to is no news.
    assert!(pace.live(&[false; 1000]).await.is_empty());
    assert_eq!(pace.storm().await, 3);
    assert_eq!(pace.mode(), Mode::Dump);
}

#[tokio::test(start_paused = true)]
async fn more_is_listened_to_after_a_while_and_later_each_time_that_it_is_too_much_again() {
    let mut pace = pace(CollectorMode::Events);
    for hold in [30, 60, 120, 240, 480, 600, 600] {
        assert_eq!(pace.storm().await, 3);
        assert_eq!(pace.mode(), Mode::Hybrid);
        assert_eq!(pace.quiet().await, hold);
        assert_eq!(pace.mode(), Mode::Events);
    }
    // What was borne for a minute counts as new.
    pace.live(&[false; 60]).await;
    pace.storm().await;
    assert_eq!(pace.quiet().await, 30);
}

#[tokio::test(start_paused = true)]
async fn the_way_up_goes_step_by_step_and_not_while_anything_is_lost() {
    let mut pace = pace(CollectorMode::Events);
    pace.storm().await;
    pace.storm().await;
    assert_eq!(pace.mode(), Mode::Dump);
    assert_eq!(pace.quiet().await, 60);
    assert_eq!(pace.mode(), Mode::Hybrid);
    // One loss each five seconds is borne, and no reason to ask for more.
    for _ in 0..60 {
        assert!(
            pace.live(&[true, false, false, false, false])
                .await
                .is_empty()
        );
    }
    assert_eq!(pace.mode(), Mode::Hybrid);
    assert!(pace.quiet().await <= 5);
    assert_eq!(pace.mode(), Mode::Events);
}

#[tokio::test(start_paused = true)]
async fn each_mode_listens_to_what_it_is_for() {
    for (mode, hears) in [
        (CollectorMode::Dump, Mode::Dump),
        (CollectorMode::Hybrid, Mode::Hybrid),
        (CollectorMode::Events, Mode::Events),
        // Until the first dump has told what it costs.
        (CollectorMode::Auto, Mode::Events),
    ] {
        let mut pace = pace(mode);
        assert_eq!(pace.mode(), hears, "{mode:?}");
        assert!(pace.set_tells(false));
        assert!(!pace.set_tells(false));
        assert_eq!(pace.mode(), Mode::Dump, "{mode:?}");
        assert!(pace.set_tells(true));
        assert_eq!(pace.mode(), hears, "{mode:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn auto_decides_by_the_first_dump_and_then_by_three_that_agree() {
    let mut pace = pace(CollectorMode::Auto);
    let said = pace.dump(CHEAP).await.unwrap();
    assert_eq!(
        said,
        "mode hybrid: a dump takes 19.0ms: one is made at each tick"
    );
    assert_eq!((pace.mode(), pace.resync_after()), (Mode::Hybrid, None));
    // It rests first.
    for _ in 0..29 {
        assert_eq!(pace.dump(COSTLY).await, None);
    }
    let said = pace.dump(COSTLY).await.unwrap();
    assert_eq!(
        said,
        "mode events: a dump takes 51.0ms, more than 0.5 % of the tick: \
         connections are counted by events, and by a dump each 60s"
    );
    assert_eq!(pace.mode(), Mode::Events);
    for _ in 0..30 {
        assert_eq!(pace.dump(COSTLY).await, None);
    }
    // Two are chance, and what is neither costly nor cheap changes nothing.
    for took in [CHEAP, CHEAP, BETWEEN, CHEAP, CHEAP, COSTLY, CHEAP, CHEAP] {
        assert_eq!(pace.dump(took).await, None, "{took:?}");
    }
    assert!(pace.dump(CHEAP).await.unwrap().starts_with("mode hybrid"));
    for _ in 0..100 {
        assert_eq!(pace.dump(BETWEEN).await, None);
    }
    assert_eq!(pace.mode(), Mode::Hybrid);
}

#[tokio::test(start_paused = true)]
async fn what_lies_between_cheap_and_costly_begins_as_cheap() {
    let mut pace = pace(CollectorMode::Auto);
    assert!(pace.dump(BETWEEN).await.unwrap().starts_with("mode hybrid"));
    let mut pace = self::pace(CollectorMode::Auto);
    assert!(pace.dump(COSTLY).await.unwrap().starts_with("mode events"));
}

#[tokio::test(start_paused = true)]
async fn a_mode_that_is_named_stays_whatever_dumps_cost() {
    for (mode, hears) in [
        (CollectorMode::Hybrid, Mode::Hybrid),
        (CollectorMode::Events, Mode::Events),
    ] {
        let mut pace = pace(mode);
        for took in [CHEAP, COSTLY, COSTLY, COSTLY, TICK] {
            assert_eq!(pace.dump(took).await, None);
            assert_eq!(pace.mode(), hears);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn resyncs_take_no_more_than_their_share_of_the_time() {
    let mut pace = pace(CollectorMode::Events);
    assert_eq!(pace.resync_after(), Some(60 * SECOND));
    pace.dump(SECOND / 10).await;
    assert_eq!(pace.resync_after(), Some(60 * SECOND));
    pace.dump(SECOND).await;
    assert_eq!(pace.resync_after(), Some(200 * SECOND));
    // With fewer events, dumps must tell more often: a tenth of the time.
    pace.storm().await;
    assert_eq!(pace.resync_after(), None);
    pace.dump(2 * SECOND).await;
    assert_eq!(pace.resync_after(), Some(20 * SECOND));
}
