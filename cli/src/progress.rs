//! A progress bar for steps that make people wait.

use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::thread;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

/// A step that takes no longer shows nothing.
const PATIENCE: Duration = Duration::from_secs(1);
const REDRAW: Duration = Duration::from_millis(100);

const COUNTING: &str = "{msg} {wide_bar} {pos}/{len}";
const WAITING: &str = "{spinner} {msg} {elapsed}";

/// A step under way, on standard error if that is a terminal. Gone when dropped.
#[derive(Debug)]
pub struct Progress {
    bar: ProgressBar,
    /// Hanging up tells the thread that would show the bar not to.
    _shown: Sender<()>,
}

impl Progress {
    /// A step of `count` parts.
    pub fn counting(what: &str, count: usize) -> Self {
        Self::new(
            what,
            ProgressBar::with_draw_target(Some(count as u64), ProgressDrawTarget::hidden()),
            COUNTING,
        )
    }

    /// A step in one part.
    pub fn waiting(what: &str) -> Self {
        Self::new(what, ProgressBar::with_draw_target(None, ProgressDrawTarget::hidden()), WAITING)
    }

    /// One more part is done.
    pub fn advance(&self) {
        self.bar.inc(1);
    }

    /// Does something that may write to the terminal.
    pub fn suspend<T>(&self, action: impl FnOnce() -> T) -> T {
        self.bar.suspend(action)
    }

    fn new(what: &str, bar: ProgressBar, template: &str) -> Self {
        bar.set_message(what.to_owned());
        if let Ok(style) = ProgressStyle::with_template(template) {
            bar.set_style(style);
        }
        let (shown, dropped) = mpsc::channel();
        let late = bar.clone();
        thread::spawn(move || {
            if dropped.recv_timeout(PATIENCE) == Err(RecvTimeoutError::Timeout) {
                late.set_draw_target(ProgressDrawTarget::stderr());
                late.enable_steady_tick(REDRAW);
            }
        });
        Self { bar, _shown: shown }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}
