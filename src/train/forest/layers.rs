//! The layers over a trie, forward and backward, in pieces of nodes and with attention over all of them.
//!
//! tch has no way to write a gradient of one's own, or to hand one to `backward`. So each layer is cut at its attention and before its last
//! projection: what lies between belongs to graphs of their own, whose end `y` gets its gradient `g` as `(y * g).sum().backward()`. Between
//! them stand plain tensors, which is why the graphs can be kept from the forward pass or made again, layer by layer, from the inputs.
//!
//! Axes: `n` node, `h` query head, `g` key head, `c` channel of a head, `d` width.

use tch::{Kind, Tensor};

use super::attention::{Attended, Plan};
use super::head::gradient_of;
use super::trie::Trie;
use crate::model::{Linear, Model, Rotations};

/// Nodes that go through a layer's projections at once: enough for full speed, few enough that what lies between them stays small.
const NODES_AT_ONCE: i64 = 1024;

/// The nodes of a trie as a model sees them.
pub struct Nodes<'a> {
    model: &'a Model,
    ids_n: Tensor,
    rotations: Rotations,
    plan: Plan,
    /// Nodes whose hidden states are wanted after the last layer. That layer computes no others: they would only be dropped.
    wanted_w: Tensor,
}

/// What the forward pass leaves for the backward pass.
pub struct Trace {
    layers: Vec<LayerTrace>,
}

struct LayerTrace {
    x_nd: Tensor,
    attended: Attended,
    graphs: Option<(Vec<Before>, Vec<After>)>,
}

/// Some nodes on their way from a layer's input to queries, keys and values.
struct Before {
    x_nd: Tensor,
    qkv: [Tensor; 3],
}

/// Some nodes on their way from a layer's input and what they attended to to the last projection, of `gated_nf`, and what that is added to.
/// The projection itself is in no graph: its gradient asks for its input alone, so that it is not computed again.
struct After {
    x_nd: Tensor,
    out_nhc: Tensor,
    added_to_nd: Tensor,
    gated_nf: Tensor,
}

/// What a layer leaves for the backward pass.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Keep {
    /// Nothing: there will be none.
    Nothing,
    /// Its input and attention; the rest is computed again.
    Inputs,
    /// Everything.
    Graphs,
}

impl<'a> Nodes<'a> {
    /// * `wanted`: nodes, each once.
    pub fn new(model: &'a Model, trie: &Trie, wanted: &[i64]) -> Nodes<'a> {
        let device = model.device();
        let tensor = |values: &[u32]| {
            Tensor::from_slice(&values.iter().map(|&value| i64::from(value)).collect::<Vec<_>>()).to_device(device)
        };
        Nodes {
            model,
            ids_n: tensor(&trie.ids),
            rotations: model.rotations(&tensor(&trie.positions)),
            plan: Plan::new(trie, device, model.kind()),
            wanted_w: Tensor::from_slice(wanted).to_device(device),
        }
    }

    /// Hidden states of the wanted nodes after the last layer, before the last norm, `[W, D]`, outside of any graph.
    ///
    /// * `keep`: what the layer of an index leaves.
    pub fn forward(&self, keep: impl Fn(usize) -> Keep) -> (Tensor, Trace) {
        let _guard = tch::no_grad_guard();
        let mut x_nd = self.model.embed(&self.ids_n);
        let mut layers = vec![];
        for index in 0..self.model.layers.len() {
            let (y_nd, layer) = self.layer(index, x_nd, keep(index));
            layers.extend(layer);
            x_nd = y_nd;
        }
        (x_nd, Trace { layers })
    }

    /// Adds to the gradient of every parameter up to the last layer, given that of `forward`'s hidden states.
    pub fn backward(&self, trace: Trace, grad_wd: Tensor) {
        let mut grad_nd = grad_wd;
        for (index, layer) in trace.layers.into_iter().enumerate().rev() {
            grad_nd = self.layer_backward(index, layer, &grad_nd);
        }
        if self.model.embedding_vd.requires_grad() {
            dot(&self.model.embed(&self.ids_n), &grad_nd).backward();
        }
    }

    fn layer(&self, index: usize, x_nd: Tensor, keep: Keep) -> (Tensor, Option<LayerTrace>) {
        let graphs = keep == Keep::Graphs;
        let mut before = with_graph(graphs, || self.before(index, &x_nd));
        let [q, k, v] = join(&before);
        if !graphs {
            before.clear();
        }
        let attended = self.plan.forward(&q, &k, &v);
        let (after_x_nd, out_nhc) = self.onwards(index, &x_nd, &attended.out_nhc);
        let after: Vec<After> = with_graph(graphs, || {
            pieces(&after_x_nd)
                .map(|(start, len)| self.after(index, &after_x_nd.narrow(0, start, len), &out_nhc.narrow(0, start, len)))
                .collect()
        });
        let down = &self.model.layers[index].down;
        let y = |piece: &After| piece.added_to_nd.detach() + down.apply(&piece.gated_nf.detach());
        let y_nd = Tensor::cat(&after.iter().map(y).collect::<Vec<_>>(), 0);
        let layer = LayerTrace { x_nd, attended, graphs: graphs.then_some((before, after)) };
        (y_nd, (keep != Keep::Nothing).then_some(layer))
    }

    /// Those of a layer's nodes that go on after attention: `[N, D]`, `[N, H, C]`.
    fn onwards(&self, index: usize, x_nd: &Tensor, out_nhc: &Tensor) -> (Tensor, Tensor) {
        if index + 1 < self.model.layers.len() {
            return (x_nd.shallow_clone(), out_nhc.shallow_clone());
        }
        (x_nd.index_select(0, &self.wanted_w), out_nhc.index_select(0, &self.wanted_w))
    }

    /// The gradient of what `onwards` was given, from that of what it returned.
    fn onwards_backward(&self, index: usize, grad: Tensor) -> Tensor {
        if index + 1 < self.model.layers.len() {
            return grad;
        }
        let mut size = grad.size();
        size[0] = self.ids_n.size()[0];
        Tensor::zeros(size, (grad.kind(), grad.device())).index_copy_(0, &self.wanted_w, &grad)
    }

    fn before(&self, index: usize, x_nd: &Tensor) -> Vec<Before> {
        let piece = |(start, len)| {
            let x_nd = leaf(&x_nd.narrow(0, start, len));
            let qkv = self.model.before_attention(index, &x_nd, &self.rotations.narrow(start, len));
            Before { x_nd, qkv }
        };
        pieces(x_nd).map(piece).collect()
    }

    fn after(&self, index: usize, x_nd: &Tensor, out_nhc: &Tensor) -> After {
        let (x_nd, out_nhc) = (leaf(x_nd), leaf(out_nhc));
        let (added_to_nd, gated_nf) = self.model.before_down(index, &x_nd, &out_nhc);
        After { x_nd, out_nhc, added_to_nd, gated_nf }
    }

    /// The gradient of a layer's input, given that of its output.
    fn layer_backward(&self, index: usize, layer: LayerTrace, grad_nd: &Tensor) -> Tensor {
        let LayerTrace { x_nd, attended, graphs } = layer;
        let (before, after) = graphs.unwrap_or_else(|| (self.before(index, &x_nd), vec![]));
        let (after_x_nd, out_nhc) = self.onwards(index, &x_nd, &attended.out_nhc);
        let mut kept = after.into_iter();
        let (mut x_grads, mut out_grads) = (vec![], vec![]);
        for (start, len) in pieces(grad_nd) {
            let of = |x: &Tensor| x.narrow(0, start, len);
            let piece = kept.next().unwrap_or_else(|| self.after(index, &of(&after_x_nd), &of(&out_nhc)));
            let grad_nd = of(grad_nd);
            let gated_grad_nf = projection_backward(&self.model.layers[index].down, &piece.gated_nf.detach(), &grad_nd);
            (dot(&piece.added_to_nd, &grad_nd) + dot(&piece.gated_nf, &gated_grad_nf)).backward();
            x_grads.push(piece.x_nd.grad());
            out_grads.push(piece.out_nhc.grad());
        }
        let x_grad_nd = self.onwards_backward(index, Tensor::cat(&x_grads, 0));
        let grad_nhc = self.onwards_backward(index, Tensor::cat(&out_grads, 0));
        drop((x_grads, out_grads, after_x_nd, out_nhc));

        let [q, k, v] = join(&before);
        let grads = self.plan.backward(&q, &k, &v, &attended, &grad_nhc);
        let _guard = tch::no_grad_guard();
        for (piece, (start, len)) in before.into_iter().zip(pieces(&x_nd)) {
            let [q, k, v] = [0, 1, 2].map(|part| tch::with_grad(|| dot(&piece.qkv[part], &grads[part].narrow(0, start, len))));
            tch::with_grad(|| q + k + v).backward();
            let _ = x_grad_nd.narrow(0, start, len).g_add_(&piece.x_nd.grad());
        }
        x_grad_nd
    }
}

/// The gradient of a projection's input, given that of its output; those of its parameters are added to their own.
///
/// * `x`: its input, `[N, I]`, of no graph.
fn projection_backward(projection: &Linear, x_ni: &Tensor, grad_no: &Tensor) -> Tensor {
    let add = |parameter: &Tensor, left: &Tensor, right: &Tensor| {
        if parameter.requires_grad() {
            let mut gradient = gradient_of(parameter);
            let _guard = tch::no_grad_guard();
            let _ = gradient.addmm_(&left.transpose(0, 1), right);
        }
    };
    add(&projection.weight_oi, grad_no, x_ni);
    if let Some(bias_o) = projection.bias_o.as_ref().filter(|bias| bias.requires_grad()) {
        let mut gradient = gradient_of(bias_o);
        let _guard = tch::no_grad_guard();
        gradient += grad_no.sum_dim_intlist(0i64, false, grad_no.kind());
    }
    let _guard = tch::no_grad_guard();
    let mut grad_ni = grad_no.matmul(&projection.weight_oi);
    if let Some(lora) = &projection.lora {
        let scaled_no = grad_no * lora.scale;
        let grad_nr = scaled_no.matmul(&lora.b_or);
        add(&lora.b_or, &scaled_no, &x_ni.linear(&lora.a_ri, None::<&Tensor>));
        add(&lora.a_ri, &grad_nr, x_ni);
        grad_ni += grad_nr.matmul(&lora.a_ri);
    }
    grad_ni
}

/// Starts and lengths of the pieces that go through a layer's projections at once.
fn pieces(x_nd: &Tensor) -> impl Iterator<Item = (i64, i64)> + use<> {
    let n = x_nd.size()[0];
    (0..n).step_by(NODES_AT_ONCE as usize).map(move |start| (start, NODES_AT_ONCE.min(n - start)))
}

fn with_graph<T>(graph: bool, f: impl FnOnce() -> T) -> T {
    if graph { tch::with_grad(f) } else { f() }
}

/// A copy of no graph, whose gradient is wanted.
pub(super) fn leaf(x: &Tensor) -> Tensor {
    x.detach().set_requires_grad(true)
}

/// A scalar whose gradient by `x` is `g`.
pub(super) fn dot(x: &Tensor, g: &Tensor) -> Tensor {
    (x * g).sum(None::<Kind>)
}

/// The pieces' queries, keys and values as those of all nodes.
fn join(pieces: &[Before]) -> [Tensor; 3] {
    [0, 1, 2].map(|part| Tensor::cat(&pieces.iter().map(|piece| piece.qkv[part].detach()).collect::<Vec<_>>(), 0))
}
