//! `remeet client`: create, control and watch meetings from a terminal or a script.

mod print;

use super::output::{self, Failure};
use super::{meeting, plain_leg};
use crate::cms::client::{Client, ClientSettings, Notice};
use clap::{Args, Subcommand, ValueEnum};
use remeet_protocol::message::{
    AddLeg, AddTerminal, AdoptOrphan, ClientOp, Create, RemoveTerminal, SetDecode, SetExtra, SetRole, TerminalRole,
    WindowSetting,
};
use remeet_protocol::record::{DisplayMode, LeaveReason, MediaCodec};
use remeet_protocol::wire::{Blob, Text};
use remeet_protocol::{DomainId, Handle, LegId, MeetingId, ServerId};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

/// A meeting client.
#[derive(Debug, Args)]
pub(super) struct Options {
    /// Where the scheduler lets clients in. Given again for each further one of a pair: the one that
    /// commands is looked for.
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:7400")]
    connect: Vec<SocketAddr>,
    /// The client's id, as in the scheduler's configuration.
    #[arg(long, value_name = "N")]
    id: u32,
    /// The client's name, as in the scheduler's configuration.
    #[arg(long, value_parser = text::<64>)]
    name: Text<64>,
    /// Keep the instance and unanswered commands in this file: the same command given again after a
    /// crash has one effect.
    #[arg(long, value_name = "FILE")]
    state: Option<PathBuf>,
    /// How long to wait for an answer, repeats included, in seconds.
    #[arg(long, value_name = "S", default_value_t = 30)]
    deadline_s: u32,
    /// Print JSON, an object a line.
    #[arg(long)]
    json: bool,
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Make a meeting; it is not started yet.
    Create {
        /// People's number of the meeting.
        #[arg(long, value_parser = text::<32>)]
        number: Text<32>,
        /// People's title of the meeting.
        #[arg(long, value_parser = text::<256>)]
        title: Text<256>,
        /// The server to carry it; the scheduler chooses if not given.
        #[arg(long, value_name = "ID", default_value_t = 0)]
        server: u32,
        /// Number of who creates it.
        #[arg(long, default_value = "", value_parser = text::<32>)]
        creator: Text<32>,
        /// Name of who creates it.
        #[arg(long, default_value = "", value_parser = text::<64>)]
        creator_name: Text<64>,
        /// The meeting's id; a new one if not given.
        #[arg(long, value_parser = meeting)]
        meeting: Option<MeetingId>,
    },
    /// Make a further leg of a meeting, on another server; `start` starts it.
    AddLeg {
        /// The meeting.
        #[arg(value_parser = meeting)]
        meeting: MeetingId,
        /// The leg's number, 1 to 15: given again it is the same leg.
        leg: u16,
        /// The server to carry it; the scheduler chooses if not given.
        #[arg(long, value_name = "ID", default_value_t = 0)]
        server: u32,
    },
    /// Start a meeting, each leg on its server.
    Start {
        /// The meeting.
        #[arg(value_parser = meeting)]
        meeting: MeetingId,
    },
    /// End a meeting.
    End {
        /// The meeting.
        #[arg(value_parser = meeting)]
        meeting: MeetingId,
    },
    /// Call a terminal into a meeting.
    AddTerminal {
        /// The meeting.
        #[arg(value_parser = meeting)]
        meeting: MeetingId,
        /// The terminal's number.
        #[arg(value_parser = text::<32>)]
        terminal: Text<32>,
        /// Its display name.
        #[arg(long, default_value = "", value_parser = text::<64>)]
        display_name: Text<64>,
        /// Its home domain; the scheduler's if not given.
        #[arg(long, value_name = "ID")]
        home_domain: Option<u32>,
    },
    /// Take a terminal off a meeting.
    RemoveTerminal {
        /// The meeting.
        #[arg(value_parser = meeting)]
        meeting: MeetingId,
        /// The terminal's number.
        #[arg(value_parser = text::<32>)]
        terminal: Text<32>,
    },
    /// Give a terminal a role.
    SetRole {
        /// The meeting.
        #[arg(value_parser = meeting)]
        meeting: MeetingId,
        /// The terminal's number.
        #[arg(value_parser = text::<32>)]
        terminal: Text<32>,
        /// The role.
        role: RoleArg,
    },
    /// Set what a terminal decodes; windows that are not named are removed.
    SetDecode {
        /// The meeting.
        #[arg(value_parser = meeting)]
        meeting: MeetingId,
        /// The terminal's number.
        #[arg(value_parser = text::<32>)]
        terminal: Text<32>,
        /// Layout.
        #[arg(long, default_value = "single")]
        mode: ModeArg,
        /// The output that shows it.
        #[arg(long, default_value = "", value_parser = text::<32>)]
        output: Text<32>,
        /// Codec of the output.
        #[arg(long, default_value = "h264")]
        codec: CodecArg,
        /// A window: number, terminal to decode, and optionally channel and `av`, `a`, `v`, such as `1:8001` or `2:8002:1:a`.
        #[arg(long = "window", value_name = "WINDOW", value_parser = window)]
        windows: Vec<WindowSetting>,
    },
    /// Set or remove an entry of a terminal's extra information.
    SetExtra {
        /// The meeting.
        #[arg(value_parser = meeting)]
        meeting: MeetingId,
        /// The terminal's number.
        #[arg(value_parser = text::<32>)]
        terminal: Text<32>,
        /// The entry's name.
        #[arg(value_parser = text::<64>)]
        key: Text<64>,
        /// Its value; without one the entry is removed.
        value: Option<String>,
    },
    /// Show a meeting.
    Get {
        /// The meeting.
        #[arg(value_parser = meeting)]
        meeting: MeetingId,
        /// While it is being recovered, wait for the update too.
        #[arg(long)]
        wait: bool,
    },
    /// Show the meetings that are not ended.
    List,
    /// Show a snapshot and then every event, until interrupted.
    Subscribe {
        /// This meeting only.
        #[arg(value_parser = meeting)]
        meeting: Option<MeetingId>,
    },
    /// Mark a meeting to be recovered first.
    Mark {
        /// The meeting.
        #[arg(value_parser = meeting)]
        meeting: MeetingId,
        /// Take the mark away.
        #[arg(long)]
        undo: bool,
    },
    /// Adopt an orphan: a live meeting without a recovery key.
    Adopt {
        /// The server that reports it.
        #[arg(long, value_name = "ID")]
        server: u32,
        /// The server's handle of it.
        #[arg(long)]
        handle: u64,
        /// The leg as the server names it: the meeting's id, a slash, the leg's number.
        #[arg(long, value_parser = plain_leg)]
        leg: LegId,
        /// End it once it is adopted.
        #[arg(long)]
        end: bool,
    },
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum RoleArg {
    Chair,
    FirstSpeaker,
    SecondSpeaker,
    Participant,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum ModeArg {
    Single,
    BigAndSmall,
    TwoSplit,
    FourSplit,
    NineSplit,
    SixteenSplit,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum CodecArg {
    None,
    H264,
    H265,
    Svac2,
    Av1,
}

pub(super) async fn run(options: Options) -> Result<(), Failure> {
    let Some((address, others)) = options.connect.split_first() else {
        return Err(Failure::usage("--connect names no scheduler"));
    };
    let settings = ClientSettings {
        others: others.to_vec(),
        deadline: Duration::from_secs(options.deadline_s.max(1).into()),
        memory: options.state,
        ..ClientSettings::new(*address, options.id, options.name)
    };
    let client = Client::connect(settings).await.map_err(Failure::failed)?;
    let result = act(&client, options.action, options.json).await;
    client.close().await;
    result
}

async fn act(client: &Client, action: Action, json: bool) -> Result<(), Failure> {
    match action {
        Action::Get { meeting, wait } => {
            let got = client.get(meeting).await.map_err(Failure::failed)?;
            output::print(&print::meeting(&got.view, json))?;
            if let (true, Some(update)) = (wait, got.update) {
                let view = update.wait(UPDATE_WAIT).await.map_err(Failure::failed)?;
                output::print(&print::meeting(&view, json))?;
            }
            Ok(())
        }
        Action::List => {
            let meetings = client.list().await.map_err(Failure::failed)?;
            output::print(&print::list(&meetings, json)).map(|_| ())
        }
        Action::Subscribe { meeting } => subscribe(client, meeting, json).await,
        action => {
            let (meeting, op) = command(client, action)?;
            let answer = client.command(meeting, op).await.map_err(Failure::failed)?;
            output::print(&print::answer(&answer, json))?;
            if answer.code.is_ok() {
                return Ok(());
            }
            let detail = if answer.detail.is_empty() { answer.code.sentence() } else { answer.detail.as_str() };
            Err(Failure::failed(format!("the scheduler answered {}: {}", answer.code, output::plain(detail))))
        }
    }
}

/// How long `get --wait` waits: a round of recovery takes seconds (rule 18: 30 s).
const UPDATE_WAIT: Duration = Duration::from_secs(120);

async fn subscribe(client: &Client, meeting: Option<MeetingId>, json: bool) -> Result<(), Failure> {
    let mut subscription = client.subscribe(meeting).await.map_err(Failure::failed)?;
    let stop = super::run::stop_on_signal()?;
    loop {
        let notice: Notice = tokio::select! {
            () = stop.cancelled() => return Ok(()),
            notice = subscription.next() => match notice {
                Some(notice) => notice,
                None => return Err(Failure::failed("the scheduler refused the subscription: see the client's rights")),
            },
        };
        if !output::print(&print::notice(&notice, json))? {
            return Ok(());
        }
    }
}

/// The meeting and the operation of a commanding action.
fn command(client: &Client, action: Action) -> Result<(MeetingId, ClientOp), Failure> {
    Ok(match action {
        Action::Create { number, title, server, creator, creator_name, meeting } => {
            let mut create = Create {
                meeting: meeting.unwrap_or_default(),
                server: ServerId(server),
                number,
                title,
                creator,
                creator_name,
            };
            if meeting.is_none() {
                create.meeting = left_open(client, &create).unwrap_or_else(|| MeetingId(uuid::Uuid::now_v7()));
            }
            (create.meeting, ClientOp::Create(create))
        }
        Action::AddLeg { meeting, leg, server } => {
            (meeting, ClientOp::AddLeg(AddLeg { leg, server: ServerId(server) }))
        }
        Action::Start { meeting } => (meeting, ClientOp::Start),
        Action::End { meeting } => (meeting, ClientOp::End),
        Action::AddTerminal { meeting, terminal, display_name, home_domain } => {
            let home_domain = home_domain.map_or_else(|| client.link().borrow().domain, DomainId);
            (meeting, ClientOp::AddTerminal(AddTerminal { number: terminal, home_domain, name: display_name }))
        }
        Action::RemoveTerminal { meeting, terminal } => {
            (meeting, ClientOp::RemoveTerminal(RemoveTerminal { number: terminal, reason: LeaveReason::Removed }))
        }
        Action::SetRole { meeting, terminal, role } => {
            (meeting, ClientOp::SetRole(SetRole { number: terminal, role: role.into() }))
        }
        Action::SetDecode { meeting, terminal, mode, output, codec, windows } => {
            let op = SetDecode { number: terminal, display_mode: mode.into(), output, codec: codec.into(), windows };
            (meeting, ClientOp::SetDecode(op))
        }
        Action::SetExtra { meeting, terminal, key, value } => {
            let value = value.map(|value| Blob::new(value.into_bytes())).transpose();
            let value = value.map_err(|error| Failure::usage(format!("the entry's value: {error}")))?;
            (meeting, ClientOp::SetExtra(SetExtra { number: terminal, key, value }))
        }
        Action::Mark { meeting, undo } => (meeting, ClientOp::Mark(!undo)),
        Action::Adopt { server, handle, leg, end } => {
            let op = AdoptOrphan { server: ServerId(server), handle: Handle(handle), leg, end };
            (MeetingId::default(), ClientOp::Adopt(op))
        }
        Action::Get { .. } | Action::List | Action::Subscribe { .. } => {
            return Err(Failure::usage("this action commands nothing"));
        }
    })
}

/// The meeting id of the same creation, left unanswered by an earlier life: it was chosen here.
fn left_open(client: &Client, create: &Create) -> Option<MeetingId> {
    client.left_open().iter().find_map(|left| match &left.op {
        ClientOp::Create(before) if Create { meeting: create.meeting, ..before.clone() } == *create => {
            Some(before.meeting)
        }
        _ => None,
    })
}

fn text<const MAX: usize>(text: &str) -> Result<Text<MAX>, String> {
    Text::new(text).map_err(|error| error.to_string())
}

/// `NUMBER:SOURCE[:CHANNEL[:av]]`.
fn window(text: &str) -> Result<WindowSetting, String> {
    let wrong =
        || format!("{text:?} is not a window: write NUMBER:SOURCE[:CHANNEL[:av]], such as 1:8001 or 2:8002:1:a");
    let mut parts = text.split(':');
    let number = parts.next().and_then(|part| part.parse().ok()).ok_or_else(wrong)?;
    let source = parts.next().and_then(|part| Text::new(part).ok()).ok_or_else(wrong)?;
    let channel = parts.next().map_or(Ok(0), |part| part.parse().map_err(|_| wrong()))?;
    let media = parts.next().unwrap_or("av");
    if parts.next().is_some() || !["av", "a", "v"].contains(&media) {
        return Err(wrong());
    }
    let (video, audio) = (media.contains('v'), media.contains('a'));
    Ok(WindowSetting { window: number, source, channel, video, audio })
}

impl From<RoleArg> for TerminalRole {
    fn from(role: RoleArg) -> Self {
        match role {
            RoleArg::Chair => TerminalRole::Chair,
            RoleArg::FirstSpeaker => TerminalRole::FirstSpeaker,
            RoleArg::SecondSpeaker => TerminalRole::SecondSpeaker,
            RoleArg::Participant => TerminalRole::Participant,
        }
    }
}

impl From<ModeArg> for DisplayMode {
    fn from(mode: ModeArg) -> Self {
        match mode {
            ModeArg::Single => DisplayMode::Single,
            ModeArg::BigAndSmall => DisplayMode::BigAndSmall,
            ModeArg::TwoSplit => DisplayMode::TwoSplit,
            ModeArg::FourSplit => DisplayMode::FourSplit,
            ModeArg::NineSplit => DisplayMode::NineSplit,
            ModeArg::SixteenSplit => DisplayMode::SixteenSplit,
        }
    }
}

impl From<CodecArg> for MediaCodec {
    fn from(codec: CodecArg) -> Self {
        match codec {
            CodecArg::None => MediaCodec::None,
            CodecArg::H264 => MediaCodec::H264,
            CodecArg::H265 => MediaCodec::H265,
            CodecArg::Svac2 => MediaCodec::Svac2,
            CodecArg::Av1 => MediaCodec::Av1,
        }
    }
}
