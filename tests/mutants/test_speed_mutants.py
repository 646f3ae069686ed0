"""What goes wrong where layers are computed by hand and rows come and go: patches that tests must kill."""

import pytest

from mutants.harness import Mutant, survivors

EQUAL = "models/test_decoder.py::test_values_and_gradients_are_those_of_transformers"
IN_PLACE = "models/test_decoder.py::test_gradients_added_in_place_are_those_of_the_graph"
FROZEN = "models/test_decoder.py::test_frozen_weights_have_no_gradient_and_change_no_other"
COPIES = "models/test_decoder.py::test_copies_follow_the_weights"
FOLLOW = "models/test_decoder.py::test_copies_follow_the_optimiser"
UNKNOWN = "models/test_decoder.py::test_what_is_not_known_is_left_to_its_own_forward_pass"
COME_AND_GO = (
    "policies/test_decoding.py::test_rows_that_come_and_go_are_answered_as_those_that_transformers_caches"
)
ROOM = (
    "policies/test_decoding.py::"
    "test_each_prompt_is_read_once_for_all_its_answers_and_the_next_as_soon_as_there_is_room"
)
PREFIX = "models/test_decoder.py::test_what_all_prompts_begin_with_is_read_once"
BY_GRAPH = "models/test_decoder.py::test_attention_by_graph_is_that_of_the_kernel"
UNTOUCHED = "training/test_optimisation.py::test_rows_that_nobody_read_take_no_memory"
ROWS = "training/test_optimisation.py::test_a_table_is_clipped_as_all_other_weights"
POSITIONS = "models/test_decoder.py::test_what_stands_in_other_positions_is_not_the_same"
ROOM_OF_ROWS = "models/test_decoder.py::test_a_row_has_room_for_what_a_prefix_saves"
TWICE = "models/test_vocabulary.py::test_tiles_that_are_kept_are_those_computed_again"
CHUNKS = "models/test_vocabulary.py::test_every_chunk_size_gives_the_whole_softmax_and_its_gradient"
MOVED = "models/test_resident.py::test_trained_weights_move_out_of_their_file_as_they_are"
MOVED_PARTS = "models/test_resident.py::test_parts_of_one_tensor_stay_that"
GRAPHS = "training/test_graphs.py::test_no_graph_stands_when_the_next_part_is_computed"
PREFIXES, READER = "logratio.models.prefixes", "logratio.policies.reader"
PRODUCTS, DECODER, SEGMENTS = (
    "logratio.models.products",
    "logratio.models.decoder",
    "logratio.models.segments",
)
GRID, BATCHING = "logratio.policies.grid", "logratio.policies.batching"
AUTOCAST = "policies/test_decoding.py::test_a_model_that_is_not_known_draws_in_bf16_what_autocast_computes"
DRAWN = "cli/test_train_policy_gradient.py::test_in_bf16_what_is_drawn_is_what_is_trained_on[ppo-False]"
PATCHES: tuple[tuple[str, str, str, str, tuple[str, ...]], ...] = (
    (
        "answers are drawn while the model's own products are made coarser",
        "logratio.rollouts.language",
        "with self.actor.policy.chosen():",
        "with self.actor.policy.active():",
        (DRAWN,),
    ),
    (
        "a model that is not known draws in float32 whatever is asked for",
        "logratio.policies.kv_cache",
        "with computing(self._precision, self._device):",
        'with computing("fp32", self._device):',
        (AUTOCAST,),
    ),
    (
        "a part's gradient takes the place of what the parts before it left",
        PRODUCTS,
        "        add_product(weight.grad, outer.T, inner)",
        "        weight.grad = multiply(outer.T, inner)",
        (IN_PLACE,),
    ),
    (
        "the head's gradient takes the place of what stood",
        PRODUCTS,
        "        if self._stands:\n            add_product(rows, outer, inner)",
        "        if self._stands:\n            rows.copy_(multiply(outer, inner))",
        (IN_PLACE,),
    ),
    (
        "a token read twice counts once in the gradient of its embedding",
        PRODUCTS,
        "table.grad.index_add_(0, places, outer)",
        "table.grad.index_put_((places,), table.grad[places] + outer)",
        (IN_PLACE,),
    ),
    (
        "the derivative of a norm leaves out that its length depends on every number",
        PRODUCTS,
        "return gradient.sub_(unit.mul_(mean)).mul_(inverse), to_scale",
        "return gradient.mul_(inverse), to_scale",
        (EQUAL,),
    ),
    (
        "the gate's derivative is that of the sigmoid",
        PRODUCTS,
        "to_gate = torch.ops.aten.silu_backward(to_hidden.mul_(up), gate, grad_input=other)",
        "to_gate = to_hidden.mul_(up) * gate.sigmoid()",
        (EQUAL,),
    ),
    (
        "the residual is left out of the backward pass",
        PRODUCTS,
        "return (to_states.add_(outer), to_scale, None, None, None, *found, to_down)",
        "return (to_states, to_scale, None, None, None, *found, to_down)",
        (EQUAL,),
    ),
    (
        "a frozen weight gets a gradient",
        PRODUCTS,
        "to_weight = weight_gradient(weight, narrow, inner) if ctx.needs_input_grad[3] else None",
        "to_weight = weight_gradient(weight, narrow, inner)",
        (FROZEN,),
    ),
    (
        "tokens in other positions count as what all prompts begin with",
        PREFIXES,
        "(alike[0] & alike[1]).long()",
        "alike[0].long()",
        (POSITIONS,),
    ),
    (
        "what is asked of a prefix that was left out is answered from before it",
        PREFIXES,
        "        place[repeated] = torch.arange(prefix).repeat(len(spans) - 1)\n",
        "",
        (PREFIX,),
    ),
    (
        "behind a shared prefix a group's first tokens see what the prefix's saw",
        SEGMENTS,
        "mask = added(seen(span), like)[first - edge :]",
        "mask = added(seen(span), like)[: edge - first]",
        (PREFIX,),
    ),
    (
        "an answer of a long group does not see the prefix that another group holds",
        SEGMENTS,
        "yield Piece(own, joined(common, prompt, own))",
        "yield Piece(own, joined(prompt, own))",
        (PREFIX,),
    ),
    (
        "a prompt that several answers see has the gradient of the last of them",
        SEGMENTS,
        "            total[part] += one",
        "            total[part] = one",
        (EQUAL,),
    ),
    (
        "states whose numbers stand apart are read as if they stood side by side",
        SEGMENTS,
        "return states if states.stride(-1) == 1 else states.contiguous()",
        "return states",
        (BY_GRAPH,),
    ),
    (
        "zeros that nobody writes take memory when they are scaled",
        "logratio.training.optimisation",
        "if len(rows) < len(table) // 2:",
        "if not len(table):",
        (UNTOUCHED,),
    ),
    (
        "zeros that nobody writes take memory when they are read",
        "logratio.models.allocator",
        "access=mmap.ACCESS_COPY",
        "access=mmap.ACCESS_WRITE",
        (UNTOUCHED,),
    ),
    (
        "rows of a table that somebody read are not scaled",
        "logratio.training.optimisation",
        "        table[rows] = table[rows].mul_(factor)",
        "        table[rows[:-1]] = table[rows[:-1]].mul_(factor)",
        (ROWS,),
    ),
    (
        "the backward pass of attention is given the softmax's sums of other tokens",
        SEGMENTS,
        "saved[4][own].T[None]",
        "saved[4][: own.stop - own.start].T[None]",
        (EQUAL,),
    ),
    (
        "states that are kept stand in memory that the next layer writes over",
        PRODUCTS,
        "        gate, up = multiply(normed, gate_copy.T), multiply(normed, up_copy.T)",
        "        gate, up = multiply(normed, gate_copy.T), multiply(normed, up_copy.T)\n"
        "        gate = scratch.like(gate).copy_(gate)",
        (EQUAL,),
    ),
    (
        "a shared prefix takes room for every group",
        READER,
        "assign_rows([length - prefix for length in lengths], capacity=max_tokens - prefix)",
        "assign_rows(lengths, capacity=max_tokens)",
        (ROOM_OF_ROWS,),
    ),
    (
        "weights go on with the averages of before a state was loaded",
        "logratio.training.optimisation",
        "        self._lots_of.clear()\n",
        "",
        ("training/test_optimisation.py::test_a_state_that_is_loaded_is_the_one_that_goes_on",),
    ),
    (
        "a weight that has its first gradient later is left out for good",
        "logratio.training.optimisation",
        "if identities != known:",
        "if known is None:",
        (
            "training/test_optimisation.py::test_weights_of_two_number_formats_are_moved_as_pytorch_moves_them",
        ),
    ),
    (
        "bfloat16 copies stay what the weights were before the first step",
        "logratio.training.optimisation",
        "        increment_version(self.weights)\n",
        "",
        (FOLLOW,),
    ),
    (
        "a gradient is not turned back to its position",
        DECODER,
        "rotate(turned.view(len(turned), -1, cosine.shape[-1]), cosine, -sine)",
        "rotate(turned.view(len(turned), -1, cosine.shape[-1]), cosine, sine)",
        (EQUAL,),
    ),
    (
        "a window of attention is not noticed",
        DECODER,
        '        and not getattr(config, "sliding_window", None)\n',
        "",
        (UNKNOWN,),
    ),
    (
        "a forward pass that somebody put in is not noticed",
        DECODER,
        ' or "forward" in vars(body)',
        "",
        (UNKNOWN,),
    ),
    (
        "tokens of a group see all of it",
        SEGMENTS,
        '{"attn_mask": self.mask.to(like.dtype), "is_causal": False}',
        '{"attn_mask": None, "is_causal": False}',
        (EQUAL,),
    ),
    (
        "in a long group an answer sees one token ahead",
        SEGMENTS,
        ".tril_(seen - asking)",
        ".tril_(seen - asking + 1)",
        (EQUAL,),
    ),
    (
        "queries of other heads meet the keys",
        SEGMENTS,
        "(asked[piece.asking], piece.gathered(met), piece.gathered(given))\n            one",
        "(asked.flip(1)[piece.asking], piece.gathered(met), piece.gathered(given))\n            one",
        (EQUAL,),
    ),
    (
        "a tile that has been written over is used a second time",
        "logratio.models.vocabulary",
        "self._kept.pop(start, None)",
        "self._kept.get(start)",
        (TWICE,),
    ),
    (
        "the next chunk's logits are kept for the gradient",
        "logratio.models.vocabulary",
        "self._kept[start] = tile",
        "self._kept[start - self.chunk] = tile",
        (CHUNKS,),
    ),
    (
        "the last layer adds what was attended to at other tokens",
        DECODER,
        "hidden, seen = hidden[wanted], seen[wanted]",
        "hidden, seen = hidden[wanted], seen[: len(wanted)]",
        (EQUAL,),
    ),
    (
        "a pair's graph stands until the next row has been computed",
        "logratio.algorithms.dpo",
        "                    del logprobs, pair, share",
        "                    del logprobs, pair",
        (GRAPHS,),
    ),
    (
        "an answer's graph stands until the next row of a policy gradient has been computed",
        "logratio.training.updates",
        "        del part",
        "        pass",
        (GRAPHS,),
    ),
    (
        "the sum over the vocabulary is of the largest logit alone",
        "logratio.models.vocabulary",
        "return self.less(tile, largest).exp_().sum(dim=0).log_().add_(largest)",
        "return largest",
        (CHUNKS,),
    ),
    (
        "weights change a little when they move out of their file",
        "logratio.models.resident",
        "weight.data = weight.data.clone()",
        "weight.data = weight.data.clone().mul_(1.001)",
        (MOVED,),
    ),
    (
        "parts of one tensor become tensors of their own",
        "logratio.models.resident",
        " and sharing[weight.untyped_storage().data_ptr()] == 1",
        "",
        (MOVED_PARTS,),
    ),
    (
        "an update's checkpoint has no optimiser",
        "logratio.training.session",
        "self.optimizer if self.step < self.num_steps else None",
        "None",
        ("training/test_checkpoints.py::test_a_resumed_run_is_the_run_never_stopped",),
    ),
    (
        "copies stay what they were when the weights move",
        "logratio.models.precision",
        "if kept is None or kept[0] != weight._version:",
        "if kept is None:",
        (COPIES,),
    ),
    (
        "an answer's tokens stand one position too far",
        GRID,
        "positions = self._prompt_lengths[place] + before",
        "positions = self._prompt_lengths[place] + before + 1",
        (COME_AND_GO,),
    ),
    (
        "a row sees what a longer prompt left in its place",
        GRID,
        "prompt = torch.arange(longest, device=device) < self._prompt_lengths[:, None]",
        "prompt = torch.arange(longest, device=device) < self._prompt_lengths.max()",
        (COME_AND_GO,),
    ),
    (
        "a new answer sees what the one before it in its place said",
        GRID,
        "        self._lengths[new] = 0\n",
        "",
        (COME_AND_GO,),
    ),
    (
        "answers see each other's tokens",
        GRID,
        "own[0, place, column, :, before] = key",
        "own[0, place, column * 0, :, before] = key",
        (COME_AND_GO,),
    ),
    (
        "the next prompts wait for the last answer",
        BATCHING,
        "return free if free >= places * ADMIT_AT else 0",
        "return free if free == places else 0",
        (ROOM,),
    ),
    (
        "a layer without positions has them all the same",
        DECODER,
        "        if has_positions(attention):\n",
        "        if attention is not None:\n",
        (EQUAL,),
    ),
    (
        "queries are normalised by the scale of keys",
        DECODER,
        "zip(asked, norms, strict=True)",
        "zip(asked, norms[::-1], strict=True)",
        (EQUAL,),
    ),
    (
        "the gradient behind a head's norm is that before it",
        PRODUCTS,
        "return to_heads.to(states.dtype).view_as(states), to_scale, None, None",
        "return outer[0], to_scale, None, None",
        (EQUAL,),
    ),
    (
        "while answers are drawn, a layer without positions has them",
        DECODER,
        "        if has_positions(self.layer.self_attn):\n",
        "        if self.layer is not None:\n",
        (COME_AND_GO,),
    ),
    (
        "while answers are drawn, the heads of keys are not normalised",
        DECODER,
        "zip((query, key), head_norms(self.layer.self_attn), strict=False)",
        "zip((query,), head_norms(self.layer.self_attn), strict=False)",
        (COME_AND_GO,),
    ),
    (
        "rows that have ended are computed to the end of the batch",
        BATCHING,
        "        if len(stay) < len(going):\n            self._grid.keep(stay)\n",
        "        if len(stay):\n            return torch.arange(len(going))\n"
        "        if not len(stay):\n            self._grid.keep(stay)\n",
        (ROOM,),
    ),
)
MUTANTS = tuple(
    Mutant(name=name, module=module, old=old, new=new, checks=checks)
    for name, module, old, new, checks in PATCHES
)


@pytest.mark.slow
@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_every_mutant_is_killed(mutant, tmp_path):
    assert survivors(mutant, tmp_path) == []
