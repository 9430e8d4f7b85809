//! The gate in front of a watch stream, as `quorate_node::grpc` has it: one request after the other.

use std::collections::VecDeque;

use prost::Message as _;
use quorate_api::etcdserverpb as pb;
use quorate_core::replica::Response;
use quorate_core::request::KeyRange;
use quorate_core::store::Need;
use quorate_core::{Instant, LogIndex, RequestId, StreamId};
use quorate_node::applier;
use quorate_node::service::gate::{Passage, Step};
use quorate_node::service::{Access, watch};
use quorate_node::status::Status;

use super::visit::Desk;
use super::{Actions, Process, Subscription};
use crate::workload::Token;

/// The gate of one stream.
#[derive(Debug, Default)]
pub(super) struct Gate {
    token: Option<Token>,
    /// The request that a read index is asked for.
    confirming: Option<(RequestId, Passage)>,
    /// It, and those behind it.
    queue: VecDeque<pb::WatchRequest>,
}

impl Gate {
    pub(super) fn of(token: Option<Token>) -> Self {
        Self { token, ..Self::default() }
    }
}

/// What the gate said to somebody who wants to watch.
#[derive(Clone, Debug)]
pub struct Gated {
    /// Who.
    pub token: Option<Token>,
    /// What.
    pub range: KeyRange,
    /// The refusal, if it is one.
    pub refused: Option<Status>,
    /// The state that said so.
    pub applied: LogIndex,
}

impl Process {
    /// A message of a watch stream arrived.
    pub fn watch(
        &mut self,
        now: Instant,
        subscription: Subscription,
        request: pb::WatchRequest,
        actions: &mut Actions,
    ) {
        if let Some(&stream) = self.stream_ids.get(&subscription)
            && let Some(gate) = self.gates.get_mut(&stream)
        {
            gate.queue.push_back(request);
            self.serve(now, stream, actions);
        }
    }

    /// Consensus answered something that no call waits for.
    pub(super) fn gate_answered(
        &mut self,
        now: Instant,
        id: RequestId,
        answer: Result<Response, Status>,
        actions: &mut Actions,
    ) {
        let waits = |gate: &&mut Gate| gate.confirming.as_ref().is_some_and(|(waiting, _)| *waiting == id);
        let found = self.gates.iter_mut().find_map(|(stream, gate)| waits(&gate).then_some((*stream, gate)));
        let Some((stream, gate)) = found else { return };
        let (_, mut passage) = gate.confirming.take().expect("just seen");
        let Some(request) = gate.queue.pop_front() else { return };
        let (range, token) = (watch::keys(&request).expect("only creates wait"), gate.token.clone());
        let desk = Desk { process: self, token: token.as_ref(), access: Access::State(Need::Read(&range)), now };
        let refusal = passage.answered(answer, &desk).err();
        actions.touched.extend(token.clone());
        self.pass(stream, request, range, refusal, actions);
        self.serve(now, stream, actions);
    }

    fn serve(&mut self, now: Instant, stream: StreamId, actions: &mut Actions) {
        while let Some(gate) = self.gates.get_mut(&stream)
            && gate.confirming.is_none()
            && let Some(request) = gate.queue.front().cloned()
        {
            let token = gate.token.clone();
            let Some(range) = watch::keys(&request) else {
                gate.queue.pop_front();
                self.tell_hub(stream, request);
                continue;
            };
            actions.touched.extend(token.clone());
            let mut passage = Passage::new(None, token.is_none(), false);
            let step = passage.start(&Desk {
                process: self,
                token: token.as_ref(),
                access: Access::State(Need::Read(&range)),
                now,
            });
            if let Step::Ask(ask) = step {
                let id = self.ask(ask);
                self.gates.get_mut(&stream).expect("just seen").confirming = Some((id, passage));
                return;
            }
            self.gates.get_mut(&stream).expect("just seen").queue.pop_front();
            self.pass(stream, request, range, None, actions);
        }
    }

    fn pass(
        &mut self,
        stream: StreamId,
        request: pb::WatchRequest,
        range: KeyRange,
        refused: Option<Status>,
        actions: &mut Actions,
    ) {
        let token = self.gates.get(&stream).and_then(|gate| gate.token.clone());
        let applied = self.published.applied;
        actions.gated.push(Gated { token, range, refused: refused.clone(), applied });
        let Some(status) = refused else { return self.tell_hub(stream, request) };
        if let Some(&subscription) = self.streams.get(&stream) {
            let reply = watch::refusal(self.local().header_now(), &status).encode_to_vec();
            actions.watch.push((subscription, reply.into(), 0));
        }
    }

    fn tell_hub(&mut self, stream: StreamId, request: pb::WatchRequest) {
        if let Some(input) = watch::input(stream, request) {
            self.applier_inbox.push_back(applier::Input::Watch(input));
        }
    }
}
