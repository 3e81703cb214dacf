//! The two acts: the scheduler is killed and started again; a link is cut and restored.

use super::clients::Seen;
use super::play::{Play, QUIET, epoch};
use super::population::add_terminal;
use super::troubles::Troubles;
use super::verdict::{Act, ActName};
use crate::ops::status::{LinkState, RoundReport, Status, Trigger};
use crate::simulator::{Kind, Request, Script, Stats};
use crate::stage::{DOMAIN, StageError, now_ms, status};
use remeet_protocol::message::EndCause;
use remeet_protocol::{DomainId, LegId, ServerId};
use std::collections::BTreeMap;

/// Terminals of an orphan.
const ORPHAN_TERMINALS: u16 = 3;
/// Of a server's keys this part is deleted from the cache before its link is cut.
const FORGOTTEN_PERCENT: usize = 3;
/// At least this part of the keys must come from the cache when a link is restored.
const FROM_CACHE_PERCENT: u64 = 95;

/// How the scheduler learns of the changes that it missed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Telling {
    /// The server kept its events and sends them again.
    Events,
    /// The server lost its events: what changed since the mark must be pulled.
    Pull,
    /// It forgot what was removed, too: everything of a changed leg must be pulled.
    PullWhole,
}

/// What a round must have come to.
struct Expectation {
    live: u64,
    orphans: u64,
    ended: u64,
    keys_from_database: u64,
    keys_from_cache: u64,
}

/// `kill -9` in mid-work; changes while nobody commands; a new start takes everything over.
pub(crate) async fn restart(play: &mut Play<'_>, troubles: &mut Troubles) -> Result<(), StageError> {
    let terminals = play.options.terminals;
    play.progress.step("starts, ends and additions are under way");
    troubles.begin(play.stage, play.crew, &play.population, play.backing, terminals).await?;
    let before = play.crew.connects();
    play.stage.schedulers[0].kill().await?;
    play.progress.note("kill -9: the scheduler is dead; starts, ends and additions were under way");

    troubles.stop_faults(play.stage, &mut play.population).await?;
    let servers: Vec<ServerId> = play.stage.servers.iter().map(|server| server.id).collect();
    let mut changed = 0;
    // Events, pull since the mark, pull of everything: each on some server, the last one's link is cut later.
    let tellings = [Telling::Pull, Telling::PullWhole, Telling::Events].into_iter().cycle();
    let tellings: Vec<_> = servers.iter().copied().zip(tellings).collect();
    for (server, telling) in &tellings {
        changed += live_on(play, *server, *telling).await?;
    }
    let before_stats = play.stats().await?;
    let live: u64 = play.live_legs().await?.values().sum();
    play.progress.note(&format!(
        "nobody commands {live} live meetings; {changed} changed, {} ended by themselves, {} orphans appeared",
        servers.len(),
        play.orphans.len()
    ));

    let spawned_at_ms = play.stage.schedulers[0].start()?;
    let all = servers.len();
    let probes = play.population.probes();
    let progress = play.progress;
    let (steady, back) = tokio::join!(
        play.stage.status_when(
            0,
            "the takeover after the restart",
            QUIET,
            |status| progress.at(status.totals.in_meeting, live, "meetings taken over"),
            |status| {
                let round = status::round(status, Trigger::Restart);
                let ended = round.is_some_and(|round| round.servers.len() == all && round.ended_at_ms.is_some());
                ended && status::is_quiet(status)
            },
        ),
        play.crew.come_back(&before, &probes),
    );
    let steady = steady?;
    let mut problems = troubles.answers().await?;
    problems.extend(troubles.command_the_started(play.crew, &play.population).await?);
    let now = play.settled("all is stored after the restart").await?;
    let seen = play.crew.look(&play.population, epoch(&steady), &back).await;

    let round = status::round(&steady, Trigger::Restart).cloned();
    let round = round.ok_or_else(|| StageError::new("the status has no round of the restart"))?;
    if play.options.changed > 0.0 {
        let stats = play.stats().await?;
        for (server, telling) in tellings {
            check_pulls(telling, server, &before_stats, &stats, &mut problems);
        }
    }
    let (orphans, ended) = (play.orphans.len() as u64, troubles.ends_to_finish());
    let expectation = Expectation { live, orphans, ended, keys_from_database: live - orphans, keys_from_cache: 0 };
    check(&round, &expectation, &mut problems);
    let course = Course { act: ActName::Restart, since_ms: spawned_at_ms, quiet_at_ms: steady.at_ms, seen, problems };
    finish(play, course, &round, &now).await
}

/// One server's link is cut, its meetings go on and change, the link is restored within the term.
pub(crate) async fn link_restored(play: &mut Play<'_>) -> Result<(), StageError> {
    let last = play.stage.servers.len() - 1;
    let server = play.stage.servers[last].id;
    let added = play.options.terminals + 1;
    let forgotten = forget_keys(play, server).await?;

    play.stage.servers[last].control.cut_link(true).await?;
    play.progress.step("a link is cut");
    let is_cut = |status: &Status| matches!(status::link(status, server), Some(LinkState::Down | LinkState::Dialling));
    play.stage.status_when(0, "the link's cut is noticed", QUIET, |_| {}, is_cut).await?;
    let before_stats = play.stats().await?;
    let changed = live_on(play, server, Telling::Pull).await?;
    let live = play.live_legs().await?.get(&server).copied().unwrap_or(0);
    let orphans = 2; // one of each act
    play.progress.note(&format!(
        "server {server} is cut off; {changed} of its {live} meetings changed, one ended; {forgotten} of its keys are not \
         in the cache"
    ));
    // A command for the server that is cut off waits; one for another server does not.
    let waiting = begin_add(play, server, added)?;
    let mut problems = Vec::new();
    if last > 0 {
        let other = play.stage.servers[0].id;
        let (what, answer) = begin_add(play, other, added)?.answer().await?;
        if !answer.code.is_ok() {
            problems.push(format!("{what}, while another server is cut off: {}: {}", answer.code, answer.detail));
        }
    }
    if waiting.is_answered() {
        problems.push(format!("{} was answered while its server was cut off", waiting.what()));
    }

    let restored_at_ms = now_ms();
    play.stage.servers[last].control.cut_link(false).await?;
    let progress = play.progress;
    let steady = play
        .stage
        .status_when(
            0,
            "the takeover after the link's return",
            QUIET,
            |status| {
                let legs = status.servers.iter().find(|known| known.id == server).map(|known| known.legs);
                progress.at(legs.unwrap_or_default().in_meeting, live, "meetings taken over");
            },
            |status| {
                let round = status::round(status, Trigger::LinkRestored);
                let ended =
                    round.is_some_and(|round| round.began_at_ms >= restored_at_ms && round.ended_at_ms.is_some());
                ended && status::is_quiet(status)
            },
        )
        .await?;
    let (what, answer) = waiting.answer().await?;
    if !answer.code.is_ok() {
        problems.push(format!("{what}, given while its server was cut off: {}: {}", answer.code, answer.detail));
    }
    let now = play.settled("all is stored after the link's return").await?;
    let seen = play.crew.look(&play.population, epoch(&steady), &[]).await;
    let round = status::round(&steady, Trigger::LinkRestored).cloned();
    let round = round.ok_or_else(|| StageError::new("the status has no round of the restored link"))?;
    let expectation = Expectation {
        live,
        orphans,
        ended: 0,
        keys_from_database: forgotten,
        keys_from_cache: live.saturating_sub(orphans + forgotten),
    };
    check(&round, &expectation, &mut problems);
    if changed > 0 {
        check_pulls(Telling::Pull, server, &before_stats, &play.stats().await?, &mut problems);
    }
    let keys = round.keys_from_cache + round.keys_from_database;
    // With a handful of meetings a single deleted key is more than the rest of 5 %.
    if keys >= 20 && round.keys_from_cache * 100 < keys * FROM_CACHE_PERCENT {
        problems.push(format!("only {} of {keys} keys came from the cache", round.keys_from_cache));
    }
    if play.options.plant_difference {
        let planted = play.backing.database.plant_difference().await?;
        play.progress.note(&format!("a difference is planted: {planted}"));
    }
    let course =
        Course { act: ActName::LinkRestored, since_ms: restored_at_ms, quiet_at_ms: steady.at_ms, seen, problems };
    finish(play, course, &round, &now).await
}

/// A server's meetings go on while nobody commands them: some change, one ends, an orphan appears. Says how
/// many changed.
async fn live_on(play: &mut Play<'_>, server: ServerId, telling: Telling) -> Result<usize, StageError> {
    let victim = play.population.reserve(server)?;
    let chosen = play.population.choose(server, play.options.changed);
    let meeting = &mut play.population.meetings[victim];
    meeting.ended = Some(EndCause::ByServer);
    let id = meeting.id;
    let seed = play.options.seed.wrapping_add(play.acts.len() as u64);
    let Some(known) = play.stage.servers.iter_mut().find(|known| known.id == server) else { return Ok(0) };
    known.control.end_leg(id).await?;
    let foreign = known.control.create_foreign(1, ORPHAN_TERMINALS).await?;
    play.orphans.extend(foreign.iter().map(|foreign| foreign.leg));
    let mut changed = 0;
    if !chosen.is_empty() {
        let script = Script { seed, fraction: 0.0, meetings: Some(chosen), kinds: Kind::ALL.to_vec() };
        changed = known.control.change(script).await?.len();
    }
    if telling == Telling::PullWhole {
        known.control.call(&Request::StopKeepingRemovals).await?;
    }
    if telling != Telling::Events {
        known.control.call(&Request::OverflowEvents).await?;
    }
    Ok(changed)
}

/// Deletes some of a server's keys from the cache. Says how many.
async fn forget_keys(play: &mut Play<'_>, server: ServerId) -> Result<u64, StageError> {
    let own = play.population.meetings.iter().filter(|meeting| meeting.server == server && meeting.ended.is_none());
    let count = (own.count() * FORGOTTEN_PERCENT / 100).max(1);
    // From the end: meetings that get a part are taken from the front.
    let free = play.population.free(server);
    let legs: Vec<LegId> = free.iter().rev().take(count).map(|place| play.population.meetings[*place].leg()).collect();
    play.backing.forget_keys(&play.stage.schedulers[0].operator, DomainId(DOMAIN), &legs).await?;
    Ok(legs.len() as u64)
}

fn begin_add(play: &mut Play<'_>, server: ServerId, terminal: u16) -> Result<super::clients::Pending, StageError> {
    let place = play.population.reserve(server)?;
    let meeting = &play.population.meetings[place];
    Ok(play.crew.begin(meeting.client, meeting.id, add_terminal(place, terminal)))
}

/// What a server lost of its events must have been pulled.
fn check_pulls(
    telling: Telling,
    server: ServerId,
    before: &BTreeMap<ServerId, Stats>,
    after: &BTreeMap<ServerId, Stats>,
    problems: &mut Vec<String>,
) {
    let of = |stats: &BTreeMap<ServerId, Stats>| stats.get(&server).copied().unwrap_or_default();
    let (before, after) = (of(before), of(after));
    let (pulls, whole) = (after.pulls - before.pulls, after.full_pulls - before.full_pulls);
    let fits = match telling {
        Telling::Events => true,
        Telling::Pull => pulls > 0,
        Telling::PullWhole => whole > 0,
    };
    if !fits {
        problems
            .push(format!("server {server} lost its events, yet {pulls} pulls came, {whole} of them for everything"));
    }
}

fn check(round: &RoundReport, expected: &Expectation, problems: &mut Vec<String>) {
    let recovered = expected.live.saturating_sub(expected.orphans + expected.ended);
    for (what, expected, found) in [
        ("live meetings", expected.live, round.meetings_live),
        ("recovered meetings", recovered, round.recovered),
        ("orphans", expected.orphans, round.orphans),
        ("ends to finish", expected.ended, round.ended),
        ("pending meetings", 0, round.pending),
        ("vanished meetings", 0, round.vanished),
        ("keys from the database", expected.keys_from_database, round.keys_from_database),
        ("keys from the cache", expected.keys_from_cache, round.keys_from_cache),
    ] {
        if expected != found {
            problems.push(format!("{found} {what} are reported, {expected} were expected"));
        }
    }
    if !round.pending_by_reason.is_empty() {
        problems.push(format!("pending: {:?}", round.pending_by_reason));
    }
    if round.completeness.least() < 100.0 {
        problems.push(format!("the back-fill is not complete: {:?}, missing {:?}", round.completeness, round.missing));
    }
}

/// How an act went, beside its round's report.
struct Course {
    act: ActName,
    /// The spawn, or the link's return.
    since_ms: u64,
    /// The scheduler was seen with nothing left to do.
    quiet_at_ms: u64,
    seen: Seen,
    problems: Vec<String>,
}

async fn finish(play: &mut Play<'_>, course: Course, round: &RoundReport, now: &Status) -> Result<(), StageError> {
    let Course { act, since_ms, quiet_at_ms, seen, mut problems } = course;
    let findings = play.compare(epoch(now)).await?;
    let span = |at_ms: Option<u64>, what: &str, problems: &mut Vec<String>| match at_ms {
        Some(at_ms) => at_ms.saturating_sub(since_ms),
        None => {
            problems.push(format!("the report does not say when the last {what} was"));
            0
        }
    };
    let in_control_ms = span(round.in_control_at_ms, "acceptance", &mut problems);
    let backfilled_ms = span(round.backfilled_at_ms, "back-fill write", &mut problems);
    let act = Act {
        act,
        meetings_live: round.meetings_live,
        recovered: round.recovered,
        orphans: round.orphans,
        vanished: round.vanished,
        ended: round.ended,
        pending: round.pending,
        differences: findings.total,
        keys_from_database: round.keys_from_database,
        keys_from_cache: round.keys_from_cache,
        in_control_ms,
        // Changes that events told are written beside the round: until nothing was left to be written.
        backfilled_ms: backfilled_ms.max(quiet_at_ms.saturating_sub(since_ms)),
        epoch: round.epoch.0,
        clients_connected: seen.connected,
        clients_lost: seen.lost.len() as u64,
    };
    problems.extend(seen.lost);
    play.tell(act, now, &findings, problems).await
}
