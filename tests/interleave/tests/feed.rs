//! A connection's promises of updates (SPEC K-7), between the driver that recovers meetings and tells it, reads under
//! way, and a feed of events that loses the oldest when it is full.
//!
//! The loop here does with [`Promises`] what `src/cms/connection.rs` does, in whatever order things come.

use crate::promises::{Began, Promises};
use remeet_interleave::run::{fails_in_some_order, in_drawn_orders};
use remeet_interleave::sync::step;
use remeet_protocol::MeetingId;
use shuttle::future;
use shuttle::rand::{Rng, thread_rng};
use shuttle::sync::{Arc, Mutex};
use std::collections::BTreeMap;
use std::pin::{Pin, pin};
use std::task::{Context, Poll};
use tokio::sync::broadcast::{self, error::RecvError};
use tokio::sync::mpsc;
use uuid::Uuid;

/// Legs in recovery of each meeting.
type Stored = Arc<Mutex<BTreeMap<MeetingId, u32>>>;

/// What a connection leaves out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Without {
    Nothing,
    /// A loss of events is not told while reads are under way.
    LossesDuringReads,
    /// The feed is followed once an answer has promised something.
    FollowingFirst,
    /// When reads began.
    Began,
}

struct Connection {
    without: Without,
    stored: Stored,
    published: broadcast::Sender<MeetingId>,
    feed: Option<broadcast::Receiver<MeetingId>>,
    asked: mpsc::UnboundedReceiver<(MeetingId, u64)>,
    results: (mpsc::UnboundedSender<Done>, mpsc::UnboundedReceiver<Done>),
    reads: usize,
    promises: Promises,
    /// Of each request: whether the meeting was in recovery; none for a read that failed.
    answers: BTreeMap<u64, Vec<Option<bool>>>,
}

#[derive(Debug, Clone, Copy)]
struct Done {
    meeting: MeetingId,
    request: u64,
    began: Began,
    recovering: Option<bool>,
    update: bool,
}

enum Next {
    Asked(MeetingId, u64),
    Read(Done),
    Told(Result<MeetingId, RecvError>),
    /// The client asks no more, and nothing is under way.
    Quiet,
}

impl Connection {
    fn get(&mut self, meeting: MeetingId, request: u64, update: bool) {
        if self.without != Without::FollowingFirst {
            self.feed.get_or_insert_with(|| self.published.subscribe());
        }
        let began = self.promises.begin();
        self.reads += 1;
        let (stored, results) = (Arc::clone(&self.stored), self.results.0.clone());
        future::spawn(async move {
            let recovering = (!thread_rng().gen_bool(0.1)).then(|| stored.lock().unwrap()[&meeting] > 0);
            step();
            results.send(Done { meeting, request, began, recovering, update }).unwrap();
        });
    }

    fn poll(
        &mut self,
        which: usize,
        told: Pin<&mut impl Future<Output = Next>>,
        context: &mut Context<'_>,
    ) -> Poll<Next> {
        match which {
            0 => self.asked.poll_recv(context).map(|asked| match asked {
                Some((meeting, request)) => Next::Asked(meeting, request),
                None => Next::Quiet,
            }),
            1 => self.results.1.poll_recv(context).map(|done| Next::Read(done.unwrap())),
            _ => told.poll(context),
        }
    }

    async fn next(&mut self) -> Next {
        let first = thread_rng().gen_range(0..3);
        let mut feed = self.feed.take();
        let next = {
            let mut told = pin!(async {
                match &mut feed {
                    Some(feed) => Next::Told(feed.recv().await),
                    None => std::future::pending().await,
                }
            });
            std::future::poll_fn(|context| {
                step();
                let mut quiet = false;
                for which in [first, (first + 1) % 3, (first + 2) % 3] {
                    match self.poll(which, told.as_mut(), context) {
                        Poll::Ready(Next::Quiet) => quiet = true,
                        Poll::Ready(next) => return Poll::Ready(next),
                        Poll::Pending => {}
                    }
                }
                let over = quiet && self.reads == 0 && self.promises.is_idle();
                if over { Poll::Ready(Next::Quiet) } else { Poll::Pending }
            })
            .await
        };
        self.feed = feed;
        next
    }

    async fn run(mut self) -> BTreeMap<u64, Vec<Option<bool>>> {
        loop {
            while let Some((meeting, request)) = self.promises.next() {
                self.get(meeting, request, true);
            }
            match self.next().await {
                Next::Asked(meeting, request) => self.get(meeting, request, false),
                Next::Read(done) => self.finish(done),
                Next::Told(Ok(meeting)) => self.promises.stands(meeting),
                Next::Told(Err(RecvError::Lagged(_))) => {
                    if self.without != Without::LossesDuringReads || self.reads == 0 {
                        self.promises.lost();
                    }
                }
                Next::Told(Err(RecvError::Closed)) => unreachable!("this side can publish, too"),
                Next::Quiet => return self.answers,
            }
        }
    }

    fn finish(&mut self, done: Done) {
        self.reads -= 1;
        if !(done.update && done.recovering == Some(true)) {
            self.answers.entry(done.request).or_default().push(done.recovering);
        }
        if done.recovering == Some(true) {
            let now = if self.without == Without::Began { self.promises.begin() } else { done.began };
            assert!(self.promises.recovering(now, done.meeting, done.request, done.update), "there is room for four");
            if self.without == Without::Began {
                self.promises.answered();
            }
            self.feed.get_or_insert_with(|| self.published.subscribe());
        } else {
            self.promises.answered();
        }
        if self.promises.is_idle() {
            self.feed = None;
        }
    }
}

/// One client asks for meetings, of one twice, while the driver recovers them.
fn recovery(without: Without) {
    let meeting = |n: u128| MeetingId(Uuid::from_u128(n));
    future::block_on(async move {
        let stored: Stored = Arc::new(Mutex::new(BTreeMap::from([(meeting(1), 2), (meeting(2), 1), (meeting(3), 1)])));
        let (published, _) = broadcast::channel(1);
        let (ask, asked) = mpsc::unbounded_channel();
        let connection = Connection {
            without,
            stored: Arc::clone(&stored),
            published: published.clone(),
            feed: None,
            asked,
            results: mpsc::unbounded_channel(),
            reads: 0,
            promises: Promises::default(),
            answers: BTreeMap::new(),
        };
        let connection = future::spawn(connection.run());
        let driver = future::spawn(async move {
            for n in [1, 2, 1, 3] {
                *stored.lock().unwrap().get_mut(&meeting(n)).unwrap() -= 1;
                step();
                // Nobody may follow just now.
                let _ = published.send(meeting(n));
            }
        });
        for (n, request) in [(1, 10), (2, 20), (1, 11), (3, 30)] {
            step();
            ask.send((meeting(n), request)).unwrap();
        }
        drop(ask);
        driver.await.unwrap();
        // If an update is never read, nothing can move any more, which ends the run as a deadlock.
        let answers = connection.await.unwrap();
        assert_eq!(answers.len(), 4);
        for (request, answers) in answers {
            // A failure is an answer, too: the client asks again (SPEC K-7).
            let well = matches!(answers[..], [Some(false) | None] | [Some(true), Some(false) | None]);
            assert!(well, "request {request} was answered {answers:?}");
        }
    });
}

#[test]
fn every_request_that_was_promised_an_update_is_given_one_whatever_is_told_or_lost_meanwhile() {
    in_drawn_orders(|| recovery(Without::Nothing));
}

#[test]
fn a_connection_without_one_of_its_precautions_is_found_out() {
    for without in [Without::LossesDuringReads, Without::FollowingFirst, Without::Began] {
        assert!(fails_in_some_order(move || recovery(without)), "{without:?} was not noticed");
    }
}
