"""Data loaders with worker processes next to our threads: forked after a step, and using our layers themselves."""

from __future__ import annotations

import multiprocessing

import pytest
import torch
from torch.nn.functional import cross_entropy

import onepass
from clients.programs import assert_same, data, each_rule, loader, model, optimizer, weights

EPOCHS = 2
STEPS = 12


def train(package, rule, **options):
    """Takes steps before the workers start, between, and after, on two threads, which a fork does not copy."""
    net = model()
    opt = optimizer(package, rule, net.parameters())
    for _ in range(EPOCHS):
        for inputs, labels in loader(**options):
            opt.zero_grad()
            cross_entropy(net(inputs), labels).backward()
            opt.step()
    return weights(net)


@pytest.fixture(autouse=True)
def two_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("persistent", [False, True])
@pytest.mark.parametrize("rule", ["sgd", "adamw"])
def test_beside_workers(rule, persistent, watch):
    """The bits equal those without workers, which are torch's but for the last places."""
    alone = train("onepass", rule)
    watch.quick = 0
    ours = train("onepass", rule, num_workers=2, persistent_workers=persistent, multiprocessing_context="fork")
    assert watch.quick == STEPS - 1
    assert all(map(torch.equal, ours, alone))
    assert_same(ours, train("torch", rule), weights(model()), STEPS)


class Augmented(torch.utils.data.Dataset):
    """A data set whose samples go through our layers and optimizer in the worker."""

    def __init__(self):
        self.inputs, self.labels = data()
        self.norm = onepass.nn.BatchNorm1d(6)
        self.drop = onepass.nn.Dropout(0.25)

    def __len__(self):
        return len(self.inputs) // 8

    def __getitem__(self, index):
        part = self.inputs[index * 8 : index * 8 + 8]
        param = torch.nn.Parameter(part.clone())
        opt = onepass.optim.AdamW([param], lr=0.1)
        cross_entropy(self.norm(param)[:, :3], self.labels[index * 8 : index * 8 + 8]).backward()
        opt.step()
        return param.detach(), self.drop(part)


def test_inside_workers():
    """Our kernels run in a forked worker after the parent's ran on two threads; masks differ between batches."""
    dataset = Augmented()
    here = [dataset[i][0] for i in range(len(dataset))]
    big = torch.nn.Parameter(torch.ones(1 << 18))
    big.grad = torch.ones_like(big)
    onepass.optim.SGD([big], lr=0.1).step()
    batches = list(
        torch.utils.data.DataLoader(Augmented(), batch_size=None, num_workers=2, multiprocessing_context="fork")
    )
    assert len(batches) == len(here) == 6
    for (stepped, dropped), expected in zip(batches, here, strict=True):
        assert torch.equal(stepped, expected)
        assert (dropped == 0).any()
    masks = {tuple((dropped == 0).flatten().tolist()) for _, dropped in batches}
    assert len(masks) == len(batches)


def child(kept, queue):
    """Uses the parent's optimizer, with its states and what it remembers of them."""
    torch.set_num_threads(
        1
    )  # as in loaders' workers: torch itself waits forever for threads that the fork did not copy
    net, opt = kept
    inputs, labels = data()
    opt.zero_grad()
    cross_entropy(net(inputs), labels).backward()
    opt.step()
    queue.put([w.tolist() for w in weights(net)])


@each_rule
def test_a_forked_training(rule):
    """A forked child's step equals the step that the parent then takes."""
    net = model()
    opt = optimizer("onepass", rule, net.parameters())
    inputs, labels = data()
    for _ in range(3):
        opt.zero_grad()
        cross_entropy(net(inputs), labels).backward()
        opt.step()
    context = multiprocessing.get_context("fork")
    queue = context.SimpleQueue()
    process = context.Process(target=child, args=((net, opt), queue))
    process.start()
    found = queue.get()
    process.join(60)
    assert process.exitcode == 0
    opt.zero_grad()
    cross_entropy(net(inputs), labels).backward()
    opt.step()
    assert_same([torch.tensor(w) for w in found], weights(net), weights(model()), 4)


def test_shared_between_processes():
    """Several processes step parameters in shared memory (Hogwild), as torch's documentation shows."""
    net = model()
    net.share_memory()
    start = weights(net)
    context = multiprocessing.get_context("fork")
    queue = context.SimpleQueue()
    processes = []
    for _ in range(2):
        opt = optimizer("onepass", "sgd", net.parameters())
        process = context.Process(target=child, args=((net, opt), queue))
        process.start()
        queue.get()
        process.join(60)
        processes.append(process.exitcode)
    assert processes == [0, 0]
    expected = model()
    for _ in range(2):
        opt = optimizer("torch", "sgd", expected.parameters())
        inputs, labels = data()
        cross_entropy(expected(inputs), labels).backward()
        opt.step()
        opt.zero_grad()
    assert_same(weights(net), weights(expected), start, 2)
