"""What the split of the analytic method costs, and what the cheapest costs by scipy's linear_sum_assignment.

  assignment_oracle.py PROBLEM.safetensors MARKS
      Reads gate, up [F, D], x [T, D] and the split that is judged: shared [S] (may be of none), experts [E, w], numbers of neurons. Marks are
      computed here, in float64. Prints a JSON object: "shared" (whether those are the most marked), "cost" of the split, "least" cost.
"""
import json
import sys

import numpy as np
from safetensors.numpy import load_file
from scipy.optimize import linear_sum_assignment


def unit(rows):
    rows = rows.astype(np.float64)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def main():
    problem, marks = load_file(sys.argv[1]), int(sys.argv[2])
    x, gate, up = (unit(problem[name]) for name in ("x", "gate", "up"))
    z = x @ gate.T
    activity = np.abs(z / (1 + np.exp(-z)) * (x @ up.T))
    marked = np.zeros(activity.shape)
    np.put_along_axis(marked, np.argsort(-activity, axis=1, kind="stable")[:, :marks], 1, axis=1)
    shared, experts = problem["shared"], problem["experts"]
    order = np.argsort(-marked.sum(0), kind="stable")
    rest = order[len(shared):]
    columns, centroids = marked[:, rest], marked[:, rest[:len(experts)]]
    costs = np.stack([np.abs(columns - centroids[:, [e]]).sum(0) for e in range(len(experts))], 1)  # [n, E], whole numbers
    place = {neuron: i for i, neuron in enumerate(rest)}
    cost = sum(costs[place[neuron], e] for e, neurons in enumerate(experts) for neuron in neurons)
    seats = np.repeat(costs, experts.shape[1], axis=1)  # a column for every place in every expert
    least = seats[linear_sum_assignment(seats)].sum()
    print(json.dumps({"shared": sorted(order[:len(shared)].tolist()) == shared.tolist(), "cost": int(cost), "least": int(least)}))


if __name__ == "__main__":
    main()
