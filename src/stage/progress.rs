//! Progress while a play goes on: a bar on a terminal, plain lines else; always on standard error.

use indicatif::{ProgressBar, ProgressStyle};
use std::io::IsTerminal;
use std::sync::Mutex;
use std::time::Duration;
use tokio::time::Instant;

/// Without a terminal, a step that goes on is told at most this often.
const PLAIN_EVERY: Duration = Duration::from_secs(2);

#[derive(Debug)]
pub(crate) struct Progress {
    bar: Option<ProgressBar>,
    begun: Instant,
    told: Mutex<Instant>,
}

impl Progress {
    pub(crate) fn new() -> Self {
        let bar = std::io::stderr().is_terminal().then(|| {
            let bar = ProgressBar::new(0);
            let style = ProgressStyle::with_template("{spinner} [{elapsed_precise}] {bar:24} {pos}/{len} {msg}");
            bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
            bar.enable_steady_tick(Duration::from_millis(120));
            bar
        });
        let now = Instant::now();
        Self { bar, begun: now, told: Mutex::new(now) }
    }

    /// A step begins.
    pub(crate) fn step(&self, text: &str) {
        match &self.bar {
            Some(bar) => bar.set_message(text.to_owned()),
            None => self.line(text),
        }
    }

    /// Something that stays on the screen.
    pub(crate) fn note(&self, text: &str) {
        match &self.bar {
            Some(bar) => bar.println(format!("{:7.1} s  {text}", self.begun.elapsed().as_secs_f64())),
            None => self.line(text),
        }
    }

    /// How far the step is.
    pub(crate) fn at(&self, done: u64, of: u64, text: &str) {
        match &self.bar {
            Some(bar) => {
                bar.set_length(of);
                bar.set_position(done);
                bar.set_message(text.to_owned());
            }
            None => {
                let Ok(mut told) = self.told.lock() else { return };
                if told.elapsed() >= PLAIN_EVERY {
                    *told = Instant::now();
                    self.line(&format!("{text}: {done} of {of}"));
                }
            }
        }
    }

    fn line(&self, text: &str) {
        eprintln!("{:7.1} s  {text}", self.begun.elapsed().as_secs_f64());
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}
