use std::collections::VecDeque;
use std::sync::Mutex;

use tokio::time::{advance, timeout};

use super::*;

fn memory() -> config::Memory {
    config::Memory::default()
}

#[test]
fn reads_wait_the_longer_the_less_memory_is_left() {
    let bounds = |low| Bounds { low, high: 0.8 };
    for (share, expected) in [
        (0.0, Level::Calm),
        (0.699, Level::Calm),
        (0.7, Level::Short(Duration::from_millis(1))),
        (0.719, Level::Short(Duration::from_millis(1))),
        (0.721, Level::Short(Duration::from_millis(3))),
        (0.75, Level::Short(Duration::from_millis(6))),
        (0.77, Level::Short(Duration::from_millis(12))),
        (0.799, Level::Short(Duration::from_millis(25))),
        (0.8, Level::Short(Duration::from_millis(25))),
        (0.801, Level::Spent),
        (7.0, Level::Spent),
    ] {
        let level = Level::of_number(number_of(share, bounds(0.7)));
        assert_eq!(level, expected, "{share}");
    }
    assert_eq!(number_of(0.79, bounds(0.8)), 0);
    assert_eq!(number_of(0.81, bounds(0.8)), SPENT);
}

/// A cgroup whose use of its 100 MiB is what was said last.
#[derive(Clone)]
struct Cgroup(Arc<Mutex<VecDeque<u64>>>);

impl Cgroup {
    fn of(mebibytes: &[u64]) -> Self {
        Self(Arc::new(Mutex::new(mebibytes.iter().copied().collect())))
    }

    fn read(&self, path: &Path) -> io::Result<String> {
        let name = path.file_name().unwrap().to_str().unwrap();
        Ok(match name {
            "cgroup" => "0::/unit\n".to_owned(),
            "memory.max" if path.starts_with("/sys/fs/cgroup/unit") => (100 << 20).to_string(),
            "memory.current" => {
                let mut values = self.0.lock().unwrap();
                let value = values.pop_front().unwrap();
                if values.is_empty() {
                    values.push_back(value);
                }
                (value << 20).to_string()
            }
            "memory.stat" => "inactive_file 0\n".to_owned(),
            _ => return Err(io::ErrorKind::NotFound.into()),
        })
    }

    fn watch(&self, pressure: &Arc<Pressure>) -> Watch {
        let config = memory();
        let mut read = |path: &Path| self.read(path);
        let measure = Measure::find(config.limit, &mut read).unwrap();
        Watch::over(measure, &config, pressure)
    }

    fn start(
        &self,
        pressure: &Arc<Pressure>,
        held: impl Fn() -> u64 + Send + 'static,
        stop: &CancellationToken,
    ) {
        let (watch, files) = (self.watch(pressure), self.clone());
        tokio::spawn(watch.run_with(held, move |path| files.read(path), stop.clone()));
    }
}

#[tokio::test(start_paused = true)]
async fn the_level_follows_memory_and_is_calm_after_the_stop() {
    let pressure = Arc::default();
    let stop = CancellationToken::new();
    Cgroup::of(&[10, 72, 90, 75, 10, 90]).start(&pressure, || 0, &stop);
    // Between two looks.
    sleep(INTERVAL / 2).await;
    let mut levels = Vec::new();
    for _ in 0..6 {
        levels.push(pressure.level());
        sleep(INTERVAL).await;
    }
    let short = |millis| Level::Short(Duration::from_millis(millis));
    let expected = [
        Level::Calm,
        short(3),
        Level::Spent,
        short(6),
        Level::Calm,
        Level::Spent,
    ];
    assert_eq!(levels, expected);
    stop.cancel();
    sleep(INTERVAL).await;
    assert!(pressure.is_calm());
}

#[tokio::test(start_paused = true)]
async fn what_cannot_be_measured_any_more_holds_nobody_up() {
    let pressure = Arc::default();
    let stop = CancellationToken::new();
    let cgroup = Cgroup::of(&[90]);
    let (watch, files) = (cgroup.watch(&pressure), cgroup.clone());
    let mut looks = 0;
    let read = move |path: &Path| {
        looks += 1;
        if looks > 3 {
            return Err(io::ErrorKind::NotFound.into());
        }
        files.read(path)
    };
    tokio::spawn(watch.run_with(|| 0, read, stop.clone()));
    sleep(INTERVAL / 2).await;
    assert_eq!(pressure.level(), Level::Spent);
    sleep(INTERVAL).await;
    assert!(pressure.is_calm());
    stop.cancel();
}

#[tokio::test(start_paused = true)]
async fn a_read_waits_and_every_wait_is_counted() {
    let pressure = Pressure::default();
    let counters = ListenerCounters::default();
    let waited = async |number| {
        pressure.set(number);
        let since = Instant::now();
        let keep = pressure.wait(&counters).await;
        (since.elapsed(), keep)
    };
    let millis = Duration::from_millis;
    assert_eq!(waited(0).await, (millis(0), Keep::All));
    assert_eq!(counters.pressure_waits.get(), 0);
    assert_eq!(waited(1).await, (millis(1), Keep::All));
    assert_eq!(waited(5).await, (millis(25), Keep::All));
    assert_eq!(waited(SPENT).await, (STOP_LIMIT, Keep::Nothing));
    assert_eq!(counters.pressure_waits.get(), 3);
    assert_eq!(counters.pressure_us.get(), 1_026_000);
}

#[tokio::test(start_paused = true)]
async fn relief_ends_the_wait_of_all() {
    let pressure = Arc::new(Pressure::default());
    pressure.set(SPENT);
    let waits: Vec<_> = (0..3)
        .map(|_| {
            let pressure = Arc::clone(&pressure);
            tokio::spawn(async move { pressure.wait(&ListenerCounters::default()).await })
        })
        .collect();
    advance(STOP_LIMIT / 2).await;
    // No change is no relief.
    pressure.set(SPENT);
    advance(Duration::from_millis(1)).await;
    assert!(waits.iter().all(|wait| !wait.is_finished()));
    pressure.set(2);
    for wait in waits {
        let keep = timeout(Duration::from_millis(1), wait).await.unwrap();
        assert_eq!(keep.unwrap(), Keep::All);
    }
}

#[tokio::test(start_paused = true)]
async fn a_process_that_stays_large_after_an_outage_is_read_from_again() {
    let pressure = Arc::default();
    let stop = CancellationToken::new();
    let held = Arc::new(Mutex::new(60_u64 << 20));
    let told = Arc::clone(&held);
    Cgroup::of(&[90]).start(&pressure, move || *told.lock().unwrap(), &stop);
    sleep(INTERVAL * 5 / 2).await;
    assert_eq!(pressure.level(), Level::Spent);
    *held.lock().unwrap() = 0;
    sleep(INTERVAL).await;
    assert!(pressure.is_calm());
    stop.cancel();
}
