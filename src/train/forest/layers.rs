//! The layers over a trie, forward and backward, in chunks of nodes and with attention over all of them.
//!
//! tch has no way to write a gradient of one's own, or to hand one to `backward`. So each layer is cut where attention is: a chunk's input `x`,
//! its attention's `out` and its output `y` belong to graphs of their own, and a gradient `g` of `y` goes in as `(y * g).sum().backward()`.
//! Between them stand plain tensors, which is why the graphs can be kept from the forward pass or made again, layer by layer, from the inputs.
//!
//! Axes: `n` node, `h` query head, `g` key head, `c` channel of a head, `d` width.

use tch::{Kind, Tensor};

use super::attention::{Attended, Plan};
use super::trie::Trie;
use crate::model::{Model, Rotations};

/// Nodes that go through a layer's projections at once: enough for full speed, few enough that what lies between them stays small.
const NODES_AT_ONCE: i64 = 1024;

/// The nodes of a trie as a model sees them.
pub struct Nodes<'a> {
    model: &'a Model,
    ids_n: Tensor,
    plan: Plan,
    chunks: Vec<Chunk>,
}

/// Some nodes that lie side by side.
struct Chunk {
    start: i64,
    len: i64,
    rotations: Rotations,
}

/// What the forward pass leaves for the backward pass.
pub struct Trace {
    layers: Vec<LayerTrace>,
}

struct LayerTrace {
    x_nd: Tensor,
    attended: Attended,
    graphs: Option<Vec<Graph>>,
}

/// The graphs of one chunk through one layer. The first runs from `x_nd` to queries, keys and values, the second from `x_nd` and `out_nhc` to `y_nd`.
struct Graph {
    x_nd: Tensor,
    qkv: [Tensor; 3],
    out_nhc: Tensor,
    y_nd: Tensor,
}

/// What to leave for the backward pass.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Keep {
    /// Nothing: there will be none.
    Nothing,
    /// Each layer's input and attention; the rest is computed again.
    Inputs,
    /// Everything.
    Graphs,
}

impl<'a> Nodes<'a> {
    pub fn new(model: &'a Model, trie: &Trie) -> Nodes<'a> {
        let device = model.device();
        let tensor =
            |values: &[u32]| Tensor::from_slice(&values.iter().map(|&value| value as i64).collect::<Vec<_>>()).to_device(device);
        let positions_n = tensor(&trie.positions);
        let n = trie.len() as i64;
        let rotations = model.rotations(&positions_n);
        let chunk = |start: i64| {
            let len = NODES_AT_ONCE.min(n - start);
            Chunk { start, len, rotations: rotations.narrow(start, len) }
        };
        let chunks = (0..n).step_by(NODES_AT_ONCE as usize).map(chunk).collect();
        Nodes { model, ids_n: tensor(&trie.ids), plan: Plan::new(trie, device, model.kind()), chunks }
    }

    /// Hidden states after the last layer, before the last norm, `[N, D]`, outside of any graph.
    pub fn forward(&self, keep: Keep) -> (Tensor, Trace) {
        let _guard = tch::no_grad_guard();
        let mut x_nd = self.model.embed(&self.ids_n);
        let mut layers = vec![];
        for index in 0..self.model.layers.len() {
            if keep == Keep::Graphs {
                let (y_nd, layer) = tch::with_grad(|| self.layer_with_graphs(index, x_nd));
                layers.push(layer);
                x_nd = y_nd;
                continue;
            }
            let (y_nd, attended) = self.layer(index, &x_nd);
            if keep == Keep::Inputs {
                layers.push(LayerTrace { x_nd, attended, graphs: None });
            }
            x_nd = y_nd;
        }
        (x_nd, Trace { layers })
    }

    /// Adds to the gradient of every parameter up to the last layer, given that of `forward`'s hidden states.
    pub fn backward(&self, trace: Trace, grad_nd: Tensor) {
        let mut grad_nd = grad_nd;
        for (index, layer) in trace.layers.into_iter().enumerate().rev() {
            grad_nd = self.layer_backward(index, layer, &grad_nd);
        }
        if self.model.embedding_vd.requires_grad() {
            dot(&self.model.embed(&self.ids_n), &grad_nd).backward();
        }
    }

    fn layer(&self, index: usize, x_nd: &Tensor) -> (Tensor, Attended) {
        let qkv: Vec<[Tensor; 3]> =
            self.chunks.iter().map(|chunk| self.model.before_attention(index, &chunk.of(x_nd), &chunk.rotations)).collect();
        let [q, k, v] = join(&qkv);
        drop(qkv);
        let attended = self.plan.forward(&q, &k, &v);
        let y: Vec<Tensor> = self
            .chunks
            .iter()
            .map(|chunk| self.model.after_attention(index, &chunk.of(x_nd), &chunk.of(&attended.out_nhc)))
            .collect();
        (Tensor::cat(&y, 0), attended)
    }

    fn layer_with_graphs(&self, index: usize, x_nd: Tensor) -> (Tensor, LayerTrace) {
        let inputs = self.before(index, &x_nd);
        let [q, k, v] = join(&inputs.iter().map(|(_, qkv)| qkv.each_ref().map(Tensor::detach)).collect::<Vec<_>>());
        let attended = self.plan.forward(&q, &k, &v);
        let graphs: Vec<Graph> =
            self.chunks.iter().zip(inputs).map(|(chunk, (x_nd, qkv))| self.after(index, chunk, x_nd, qkv, &attended)).collect();
        let y_nd = Tensor::cat(&graphs.iter().map(|graph| graph.y_nd.detach()).collect::<Vec<_>>(), 0);
        (y_nd, LayerTrace { x_nd, attended, graphs: Some(graphs) })
    }

    /// For each chunk its input, as a leaf, and the queries, keys and values made of it.
    fn before(&self, index: usize, x_nd: &Tensor) -> Vec<(Tensor, [Tensor; 3])> {
        let one = |chunk: &Chunk| {
            let x_nd = leaf(&chunk.of(x_nd));
            let qkv = self.model.before_attention(index, &x_nd, &chunk.rotations);
            (x_nd, qkv)
        };
        self.chunks.iter().map(one).collect()
    }

    fn after(&self, index: usize, chunk: &Chunk, x_nd: Tensor, qkv: [Tensor; 3], attended: &Attended) -> Graph {
        let out_nhc = leaf(&chunk.of(&attended.out_nhc));
        let y_nd = self.model.after_attention(index, &x_nd, &out_nhc);
        Graph { x_nd, qkv, out_nhc, y_nd }
    }

    /// The gradient of a layer's input, given that of its output.
    fn layer_backward(&self, index: usize, layer: LayerTrace, grad_nd: &Tensor) -> Tensor {
        let LayerTrace { x_nd, attended, graphs } = layer;
        let mut kept = graphs.map(Vec::into_iter);
        let mut again = if kept.is_none() { self.before(index, &x_nd) } else { vec![] }.into_iter();
        let (mut inputs, mut out_grads) = (vec![], vec![]);
        for chunk in &self.chunks {
            let graph = kept.as_mut().and_then(Iterator::next).unwrap_or_else(|| {
                let (x_nd, qkv) = again.next().expect("one for each chunk");
                self.after(index, chunk, x_nd, qkv, &attended)
            });
            dot(&graph.y_nd, &chunk.of(grad_nd)).backward();
            out_grads.push(graph.out_nhc.grad());
            inputs.push((graph.x_nd, graph.qkv));
        }
        let grad_nhc = Tensor::cat(&out_grads, 0);
        drop(out_grads);
        let [q, k, v] = join(&inputs.iter().map(|(_, qkv)| qkv.each_ref().map(Tensor::detach)).collect::<Vec<_>>());
        let grads = self.plan.backward(&q, &k, &v, &attended, &grad_nhc);
        let mut x_grads = vec![];
        for (chunk, (x_nd, qkv)) in self.chunks.iter().zip(inputs) {
            let [q, k, v] = [0, 1, 2].map(|part| dot(&qkv[part], &chunk.of(&grads[part])));
            (q + k + v).backward();
            x_grads.push(x_nd.grad());
        }
        Tensor::cat(&x_grads, 0)
    }
}

impl Chunk {
    /// The chunk's part of something that all nodes have.
    fn of(&self, x: &Tensor) -> Tensor {
        x.narrow(0, self.start, self.len)
    }
}

/// A copy of no graph, whose gradient is wanted.
pub(super) fn leaf(x: &Tensor) -> Tensor {
    x.detach().set_requires_grad(true)
}

/// A scalar whose gradient by `x` is `g`.
pub(super) fn dot(x: &Tensor, g: &Tensor) -> Tensor {
    (x * g).sum(None::<Kind>)
}

/// The chunks' queries, keys and values as those of all nodes.
fn join(chunks: &[[Tensor; 3]]) -> [Tensor; 3] {
    [0, 1, 2].map(|part| Tensor::cat(&chunks.iter().map(|chunk| &chunk[part]).collect::<Vec<_>>(), 0))
}
