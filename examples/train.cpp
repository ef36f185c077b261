// Trains a GPT with experts on a text, alone or as a run with checkpoints and logs. See --help.
#include "train/program.hpp"

int main(int argc, char** argv) {
#ifdef MOEGPT_MODEL
  return training::program<training::Given>(argc, argv);
#else
  return training::program<training::Small, training::MakeMoE>(argc, argv);
#endif
}
