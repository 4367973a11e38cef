#pragma once

#include <ATen/core/Tensor.h>

#include <functional>
#include <map>
#include <string>
#include <vector>

#include "model/model_config.h"
#include "model/parameters.h"
#include "model/stock/stock_layout.h"

namespace moe {

/// The logical tensors of a stock mixture (model/stock) as parts of the tensors that its files hold.
class StockView {
 public:
  /// `config` was read by read_stock_config.
  explicit StockView(const ModelConfig& config);

  /// Every tensor that the files must hold, and the logical ones within.
  const std::vector<PiecedTensor>& stored() const { return tensors_; }
  /// The stored tensor that holds this logical one; the name itself where none does.
  const std::string& stored_name(const std::string& native) const;
  /// The logical tensor within its stored one: a view, or a copy where it is stored with a factor.
  at::Tensor native_part(const std::string& native, const at::Tensor& stored) const;

  /// Tensors by stored name.
  using Reader = std::function<at::Tensor(const std::string& stored)>;
  /// Tensors that the architecture has and we do not, such as biases, must hold what makes them do nothing. Throws
  /// InvalidArgument that names the first that does not; `where` starts the message.
  void check_constants(const Reader& read, const std::string& where) const;
  /// Whether the shared expert of every layer gives zero: a dummy.
  bool is_shared_expert_zero(const Reader& read) const;
  /// The model is one without a shared expert, and without a gate of one, from here on.
  void drop_shared_expert(ModelConfig& config);
  /// Whether the gate of every shared expert is so small that its sigmoid is 1/2 whatever the token.
  bool is_shared_gate_constant(const Reader& read) const;
  /// The shared experts have no gate from here on.
  void drop_shared_gate(ModelConfig& config);
  /// Whether the routers have selection biases, all of them zero.
  bool is_selection_bias_zero(const Reader& read) const;
  /// The model is one without selection biases from here on.
  void drop_selection_bias(ModelConfig& config);

 private:
  struct Place {
    size_t tensor;
    size_t piece;
  };
  void index_pieces();
  /// The stored tensors again, of a config that has less.
  void lay_out(const ModelConfig& config);
  /// Whether there are logical tensors of the part (of the expert), and no value of a stored one that holds such is
  /// larger.
  bool are_within(const Reader& read, TensorPart part, int64_t expert, double largest) const;

  StockForm form_;
  std::string layout_;
  std::vector<PiecedTensor> tensors_;
  std::map<std::string, Place> places_;        ///< by logical name
  std::map<std::string, TensorSpec> logical_;  ///< by name
};

}  // namespace moe
